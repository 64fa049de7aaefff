"""Communication volume: every collective of this process, counted where torch issues it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TrafficCounter(TorchDispatchMode):
    """Context in which the bytes that this rank sends are added up by collective.

    A gather counts this rank's input, and so do a reduction and an all-to-all, however the backend
    forwards them.

    Attributes:
        calls: Number of calls of each collective.
        bytes: Bytes sent by each collective.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count an operation if it is a collective, and run it."""
        if func.namespace == "c10d":
            name = func._schema.name.split("::")[1].strip("_")
            sent = sent_bytes(name, args)
            if sent is not None:
                self.calls[name] += 1
                self.bytes[name] += sent
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Bytes of all collectives together."""
        return sum(self.bytes.values())


def sent_bytes(name: str, args: tuple[Any, ...]) -> int | None:
    """Bytes that this rank gives to a c10d operation; None if it gives none.

    Args:
        name: Name of the operation, without underscores around it.
        args: Its arguments.
    """
    sent = _SENT.get(name)
    if sent is None:
        return None
    tensors = (x for x in tree_leaves(args[sent]) if isinstance(x, Tensor))
    return sum(x.numel() * x.element_size() for x in tensors)


# per c10d operation, the index of the argument that this rank sends; others send nothing
_SENT = {
    "allgather": 1,
    "_allgather_base": 1,
    "allgather_base": 1,
    "allreduce": 0,
    "reduce": 0,
    "broadcast": 0,
    "reduce_scatter": 1,
    "reduce_scatter_base": 1,
    "alltoall_base": 1,
    "alltoall": 1,
    "send": 0,
}
