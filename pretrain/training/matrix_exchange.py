"""Parts of matrices, brought together on one rank each and given back.

ZeRO lays parameters end to end and cuts them anywhere, or cuts each one in equal stretches; tensor
ranks hold ranges of rows or columns. A matrix is orthogonalised whole: each has one owner among the
ranks that hold parts of it, which receives the others' parts by one all-to-all, computes, and
returns them by another. With ZeRO 1 and 2 only matrices that a border cuts move.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.checkpoint.boxes import Box, coverage_problem, pieces
from pretrain.errors import RunError
from pretrain.parallel.matrices import map_places
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement

# numbers of the matrices that are computed together, 64 MiB
BATCH_ELEMENTS = 1 << 24

# matrix: copy of the model, name of the weight, number within the weight
Key = tuple[int, str, int]
Transform = Callable[[Tensor], Tensor]


class Held(NamedTuple):
    """A stretch of a rank's part of a weight, in a tensor of the optimizer.

    Attributes:
        placement: Part of the whole weight that the rank holds.
        start: First element of the stretch in the flattened part.
        numel: Number of its elements.
        tensor: Tensor of the optimizer.
        begin: Place of the first element in the flattened tensor.
    """

    placement: Placement
    start: int
    numel: int
    tensor: Tensor
    begin: int


class _Slot(NamedTuple):
    """Part of a matrix in the flattened values of a tensor."""

    key: Key
    shape: tuple[int, ...]
    box: Box
    tensor: Tensor
    stride: tuple[int, ...]
    offset: int

    def of(self, values: Tensor) -> Tensor:
        return values.view(-1).as_strided(self.box.sizes, self.stride, self.offset)


class _Round(NamedTuple):
    """The exchange of tensors that are updated together.

    Attributes:
        slots: This rank's parts, in the order of their owners.
        sent: Number of elements for each owner.
        arriving: Matrix and place of the parts that arrive, in their order.
        received: Number of elements from each rank.
        shapes: Shapes of the matrices that this rank owns.
    """

    slots: list[_Slot]
    sent: list[int]
    arriving: list[tuple[Key, Box]]
    received: list[int]
    shapes: dict[Key, tuple[int, ...]]


class MatrixExchange:
    """Exchange of matrices among the ranks of an axis; making it is a collective of them.

    Args:
        held: What this rank holds of weights with matrices.
        blocks: Maps along the rows of each such weight.
        axis: Ranks that hold parts of the same matrices.
        device: Device of exchange and computation.
        copy: Which copy of the model this rank holds parts of, for each placement.
        rounds: Tensors that are updated together, in the order of the other ranks' ones; empty: all
            tensors of `held` are.

    Raises:
        RunError: A matrix is not held completely.
    """

    def __init__(
        self,
        held: Iterable[Held],
        blocks: Mapping[str, int],
        axis: Axis,
        device: torch.device,
        *,
        copy: Callable[[Placement], int] = lambda _: 0,
        rounds: Sequence[Tensor] = (),
    ):
        self._axis, self._device = axis, device
        held = [part for part in held if part.numel and part.placement.name in blocks]
        self._number = {tensor: number for number, tensor in enumerate(rounds)}
        if not rounds:
            self._number = {part.tensor: 0 for part in held}
        slots: list[list[_Slot]] = [[] for _ in range(max(1, len(rounds)))]
        for part in held:
            name = part.placement.name
            slots[self._number[part.tensor]] += _slots(part, blocks[name], copy(part.placement))
        local = [[(slot.key, slot.shape, slot.box) for slot in each] for each in slots]
        everyone = [local]
        if axis.size > 1:
            everyone = [[] for _ in range(axis.size)]
            dist.all_gather_object(everyone, local, group=axis.group)
        self._rounds = [
            _plan(own, [of_rank[number] for of_rank in everyone], axis.rank)
            for number, own in enumerate(slots)
        ]

    def transform(self, values: Mapping[Tensor, Tensor], function: Transform) -> None:
        """Replace every whole matrix by a function of it, in place; a collective.

        Args:
            values: Contiguous values by tensor of the optimizer, of one round.
            function: From matrices [N, A, B] to as many of the same shape.
        """
        for number in sorted({self._number[tensor] for tensor in values if tensor in self._number}):
            self._transform(self._rounds[number], values, function)

    def _transform(
        self, plan: _Round, values: Mapping[Tensor, Tensor], function: Transform
    ) -> None:
        views = [slot.of(values[slot.tensor]) for slot in plan.slots]
        nothing = next(iter(values.values())).new_empty(0)
        outgoing = torch.cat([nothing, *(view.reshape(-1) for view in views)])
        arrived = self._exchanged(outgoing.to(self._device), plan.sent, plan.received)
        matrices = {key: arrived.new_empty(shape) for key, shape in plan.shapes.items()}
        places = [_part(matrices[key], box) for key, box in plan.arriving]
        parts = arrived.split([place.numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            place.copy_(part.view(place.shape))
        for batch in _batches(plan.shapes):
            changed = function(torch.stack([matrices[key] for key in batch]))
            for key, matrix in zip(batch, changed, strict=True):
                matrices[key].copy_(matrix)
        leaving = torch.cat([arrived.new_empty(0), *(place.reshape(-1) for place in places)])
        returned = self._exchanged(leaving, plan.received, plan.sent)
        for view, part in zip(views, returned.split([v.numel() for v in views]), strict=True):
            view.copy_(part.view(view.shape))

    def _exchanged(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        if self._axis.size == 1:
            return values
        arrived = values.new_empty(sum(received))
        dist.all_to_all_single(arrived, values, received, sent, group=self._axis.group)
        return arrived


def _slots(part: Held, blocks: int, copy: int) -> Iterator[_Slot]:
    """The parts of single matrices in a stretch."""
    # shapes alone: the tensor may be on a disk
    stretch = torch.empty(part.begin + part.numel, device="meta")[part.begin :]
    shape = part.placement.shape
    places = list(map_places(shape, blocks))
    for piece in pieces(stretch, part.placement, part.start):
        for number, (offsets, sizes) in enumerate(places):
            values, at = piece.values, []
            for dim, (first, size) in enumerate(zip(offsets, sizes, strict=True)):
                begin = piece.box.offsets[dim]
                low = max(first, begin)
                high = min(first + size, begin + piece.box.sizes[dim])
                if low >= high:
                    break
                values = values.narrow(dim, low - begin, high - low)
                at.append(low - first)
            else:
                matrix = values[(0,) * (len(shape) - 2)]
                box = Box(tuple(at[-2:]), tuple(matrix.shape))
                yield _Slot(
                    (copy, part.placement.name, number),
                    tuple(sizes[-2:]),
                    box,
                    part.tensor,
                    matrix.stride(),
                    int(matrix.storage_offset()),
                )


def _plan(own: list[_Slot], everyone: Sequence[Sequence[Any]], rank: int) -> _Round:
    """The exchange of one round, from every rank's (matrix, shape, place) in its order."""
    holders: dict[Key, dict[int, int]] = {}
    boxes: dict[Key, list[Box]] = {}
    shapes: dict[Key, tuple[int, ...]] = {}
    for holder, parts in enumerate(everyone):
        for key, shape, box in parts:
            shapes[key] = shape
            boxes.setdefault(key, []).append(box)
            numel = box.sizes[0] * box.sizes[1]
            holders.setdefault(key, {})[holder] = holders.get(key, {}).get(holder, 0) + numel
    for key, shape in shapes.items():
        if problem := coverage_problem(shape, boxes[key]):
            raise RunError(
                f"optim.name is 'muon': matrix {key[2]} of {key[1]} is not held completely in this "
                f"layout: {problem}; expected optim.name 'adamw', or another layout"
            )
    owners = _owners(shapes, holders)
    slots = sorted(own, key=lambda slot: owners[slot.key])
    arriving = [[(key, box) for key, _, box in parts if owners[key] == rank] for parts in everyone]
    sent, numbers = [0] * len(everyone), [0] * len(everyone)
    for slot in slots:
        sent[owners[slot.key]] += slot.box.sizes[0] * slot.box.sizes[1]
    for holder, parts in enumerate(arriving):
        numbers[holder] = sum(box.sizes[0] * box.sizes[1] for _, box in parts)
    owned = {key: shape for key, shape in shapes.items() if owners[key] == rank}
    return _Round(slots, sent, list(itertools.chain(*arriving)), numbers, owned)


def _owners(
    shapes: Mapping[Key, tuple[int, ...]], holders: Mapping[Key, Mapping[int, int]]
) -> dict[Key, int]:
    """Owner of each matrix: of its holders, the one with the least work so far."""
    work: dict[int, int] = {}
    owners = {}

    def cost(key: Key) -> int:
        rows, columns = shapes[key]
        return rows * columns * min(rows, columns)

    for key in sorted(shapes, key=lambda key: (len(holders[key]), -cost(key), key)):
        held = holders[key]
        owners[key] = min(held, key=lambda rank: (work.get(rank, 0), -held[rank], rank))
        work[owners[key]] = work.get(owners[key], 0) + cost(key)
    return owners


def _batches(shapes: Mapping[Key, tuple[int, ...]]) -> Iterator[list[Key]]:
    """Matrices of one shape, few enough to be computed together."""
    by_shape: dict[tuple[int, ...], list[Key]] = {}
    for key, shape in shapes.items():
        by_shape.setdefault(shape, []).append(key)
    for (rows, columns), keys in by_shape.items():
        most = max(1, BATCH_ELEMENTS // (rows * columns))
        for first in range(0, len(keys), most):
            yield keys[first : first + most]


def _part(matrix: Tensor, box: Box) -> Tensor:
    for dim, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
        matrix = matrix.narrow(dim, offset, size)
    return matrix
