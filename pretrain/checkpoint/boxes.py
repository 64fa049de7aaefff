"""Boxes: the places, in a whole parameter, of the elements that a rank holds.

ZeRO flattens parameters and cuts them anywhere; tensor parallelism cuts them along a dimension. A
range of a flattened tensor is a handful of boxes (half a row, whole rows, half a row), and
torch.distributed.checkpoint stores boxes and reads them back under another cut.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from pretrain.parallel.placement import Placement


class Box(NamedTuple):
    """A part of a tensor: its first element and its extent in every dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Piece(NamedTuple):
    """A box of a whole parameter and its values.

    Attributes:
        box: Its place in the parameter.
        values: A tensor of the box's sizes; may be a view of the tensor it was cut from.
    """

    box: Box
    values: Tensor


def flat_boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Boxes of the elements [start, stop) of a row-major tensor, in their order.

    Cost: at most 2 * dimensions - 1 boxes.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield Box((start,) * len(shape), (stop - start,) * len(shape))
        return
    row_shape = shape[1:]
    row = math.prod(row_shape)
    first, last = -(-start // row), stop // row
    if first > last:
        # inside one row
        yield from _in_row(last, row_shape, start - last * row, stop - last * row)
        return
    yield from _in_row(first - 1, row_shape, start - (first - 1) * row, row * (start % row > 0))
    if last > first:
        yield Box((first, *(0 for _ in row_shape)), (last - first, *row_shape))
    yield from _in_row(last, row_shape, 0, stop - last * row)


def _in_row(index: int, row_shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    for box in flat_boxes(row_shape, start, stop):
        yield Box((index, *box.offsets), (1, *box.sizes))


def coverage_problem(shape: tuple[int, ...], boxes: Iterable[Box]) -> str:
    """Why boxes do not hold each element of a tensor exactly once; empty if they do.

    Elements inside, no two boxes overlapping, and the right sum leave no gap.

    Cost: n log n for n boxes, times those that share elements of the first dimension.
    """
    total = 0
    active: list[Box] = []
    for box in sorted(boxes):
        spans = zip(box.offsets, box.sizes, shape, strict=False)
        inside = all(offset >= 0 and 1 <= size <= length - offset for offset, size, length in spans)
        if len(box.offsets) != len(shape) or len(box.sizes) != len(shape) or not inside:
            return (
                f"a piece of {list(box.sizes)} at {list(box.offsets)} is not inside {list(shape)}"
            )
        active = [other for other in active if other.offsets[0] + other.sizes[0] > box.offsets[0]]
        if other := next((other for other in active if _overlap(box, other)), None):
            return f"the pieces at {list(other.offsets)} and {list(box.offsets)} overlap"
        if shape:
            active.append(box)
        total += math.prod(box.sizes)
    expected = math.prod(shape)
    if total != expected:
        return f"its pieces have {total:,} elements; expected {expected:,}"
    return ""


def _overlap(one: Box, other: Box) -> bool:
    return all(
        first < second + second_size and second < first + first_size
        for first, first_size, second, second_size in zip(
            one.offsets, one.sizes, other.offsets, other.sizes, strict=True
        )
    )


def held_shape(placement: Placement) -> tuple[int, ...]:
    """Shape of a rank's part of a parameter."""
    if placement.dim is None:
        return placement.shape
    held = sum(stop - start for start, stop in placement.ranges) + placement.padding
    return (*placement.shape[: placement.dim], held, *placement.shape[placement.dim + 1 :])


def pieces(flat: Tensor, placement: Placement, start: int) -> Iterator[Piece]:
    """Pieces of the whole parameter that a stretch of a rank's flattened part consists of.

    Args:
        flat: The elements from `start` on, one-dimensional.
        placement: Part of a whole parameter that the rank holds.
        start: First element, counted in the rank's flattened part.

    Returns:
        Pieces that are views of `flat`: writing into them writes into `flat`. Padding is in none
        of them.
    """
    at = 0
    for box in flat_boxes(held_shape(placement), start, start + flat.numel()):
        size = math.prod(box.sizes)
        yield from _in_whole(box, flat[at : at + size].view(box.sizes), placement)
        at += size


def _in_whole(box: Box, values: Tensor, placement: Placement) -> Iterator[Piece]:
    """Pieces of the whole parameter in a box of a rank's part: one per range that it overlaps."""
    dim = placement.dim
    if dim is None:
        yield Piece(box, values)
        return
    begin, position = box.offsets[dim], 0
    for start, stop in placement.ranges:
        low = max(begin, position)
        high = min(begin + box.sizes[dim], position + stop - start)
        if low < high:
            part = values.narrow(dim, low - begin, high - low)
            moved = (*box.offsets[:dim], start + low - position, *box.offsets[dim + 1 :])
            yield Piece(Box(moved, tuple(part.shape)), part)
        position += stop - start
