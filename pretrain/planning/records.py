"""Records of what a rank does: operations, collectives, storages."""

from collections import Counter
from typing import NamedTuple


class OpaqueError(Exception):
    """The inside of an operator is not to be rehearsed: its formula has to do."""


class OpCost(NamedTuple):
    """Resources that an operation needs.

    Attributes:
        kind: `matrix`, `fft` or `other` arithmetic.
        dtype: Dtype of its first operand.
        flops: Floating-point operations; none of `other` arithmetic.
        bytes: Bytes that it reads and writes.
    """

    kind: str
    dtype: str
    flops: int
    bytes: int


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
        name: Name in torch's c10d.
        bytes: Bytes that this rank gives to it.
        ranks: The ranks that take part.
    """

    name: str
    bytes: int
    ranks: tuple[int, ...]


class Segment:
    """Operations and collectives between two points of a run."""

    def __init__(self) -> None:
        self.ops: Counter[OpCost] = Counter()
        self.collectives: Counter[Collective] = Counter()
        # operations of whole operators, by their own formulas
        self.model_flops = 0


class Allocation:
    """A storage's life.

    Attributes:
        bytes: Size.
        birth: Number of operations before it was made.
        death: Number of operations before it was freed; None while it lives.
        segment: Name of the segment in which it was made.
        label: What it is, if that is known.
        left: Number of operations before it was moved to the host; None if it was not.
    """

    __slots__ = ("birth", "bytes", "death", "label", "left", "segment")

    def __init__(self, size: int, birth: int, segment: str, label: str):
        self.bytes, self.birth, self.segment, self.label = size, birth, segment, label
        self.death: int | None = None
        self.left: int | None = None
