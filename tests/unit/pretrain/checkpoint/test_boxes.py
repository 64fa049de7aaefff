"""Flat ranges and tensor-parallel parts as boxes: every element once, in its place."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.checkpoint.boxes import Box, coverage_problem, flat_boxes, held_shape, pieces
from pretrain.checkpoint.ownership import choose_writers
from pretrain.parallel.placement import Placement

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def placed(draw: st.DrawFn) -> Placement:
    """A part of a parameter: ranges along one dimension, in any order, perhaps with padding."""
    shape = draw(SHAPES)
    dim = draw(st.integers(0, len(shape) - 1))
    cuts = sorted(draw(st.sets(st.integers(0, shape[dim]), min_size=2, max_size=5)))
    ranges = list(itertools.pairwise(cuts))[:: draw(st.integers(1, 2))]
    return Placement("x", shape, dim, tuple(ranges), padding=draw(st.integers(0, 2)))


@settings(deadline=None)
@given(shape=SHAPES, data=st.data())
def test_boxes_hold_a_range_in_its_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    numel = math.prod(shape)
    start = data.draw(st.integers(0, numel))
    stop = data.draw(st.integers(start, numel))
    whole = torch.arange(numel).view(shape)
    boxes = list(flat_boxes(shape, start, stop))
    found = []
    for box in boxes:
        part = whole
        for dim, (offset, size) in enumerate(zip(*box, strict=True)):
            part = part.narrow(dim, offset, size)
        found += part.flatten().tolist()
    assert found == list(range(start, stop))
    assert len(boxes) <= 2 * len(shape) - 1


@settings(deadline=None)
@given(placement=placed(), data=st.data())
def test_pieces_say_where_each_element_lies_in_the_whole(
    placement: Placement, data: st.DataObject
) -> None:
    whole = torch.arange(1, 1 + math.prod(placement.shape)).view(placement.shape)
    held = placement.part_of(whole)
    assert held.shape == held_shape(placement)
    flat = held.flatten()
    cuts = sorted(data.draw(st.sets(st.integers(0, flat.numel()), max_size=3)))
    edges = [0, *cuts, flat.numel()]
    rebuilt = torch.zeros_like(whole)
    count = 0
    for start, stop in itertools.pairwise(edges):
        for piece in pieces(flat[start:stop], placement, start):
            target = rebuilt
            for dim, (offset, size) in enumerate(zip(*piece.box, strict=True)):
                target = target.narrow(dim, offset, size)
            assert target.eq(0).all(), "an element twice"
            target.copy_(piece.values)
            count += piece.values.numel()
    assert count == held.count_nonzero()
    expected = torch.zeros_like(whole)
    for start, stop in placement.ranges:
        place = [slice(None)] * whole.ndim
        place[placement.dim or 0] = slice(start, stop)
        expected[tuple(place)] = whole[tuple(place)]
    assert torch.equal(rebuilt, expected)


def test_what_is_written_into_a_piece_arrives_in_the_flat_range() -> None:
    flat = torch.zeros(7)
    for piece in pieces(flat, Placement("x", (4, 3)), 2):
        piece.values.fill_(1.0)
    assert flat.eq(1.0).all()


def test_copies_take_turns_and_parts_are_written_once() -> None:
    whole, split = ("norm", ()), ("matrix", ((0, 2),))
    replicas = [{whole: 0, split: 0}, {whole: 1}, {whole: 0, split: 0}, {whole: 1}]
    assert choose_writers(replicas) == {split: 0, whole: 1}
    assert choose_writers([{("a", ()): 0, ("b", ()): 0}]) == {("a", ()): 0, ("b", ()): 0}


@settings(deadline=None)
@given(shape=SHAPES, data=st.data())
def test_coverage_is_each_element_once(shape: tuple[int, ...], data: st.DataObject) -> None:
    numel = math.prod(shape)
    cuts = sorted({0, numel, *data.draw(st.lists(st.integers(0, numel), max_size=4))})
    boxes = [
        box for start, stop in itertools.pairwise(cuts) for box in flat_boxes(shape, start, stop)
    ]
    assert coverage_problem(shape, data.draw(st.permutations(boxes))) == ""
    # any change of one box leaves a gap, an overlap or the tensor
    number = data.draw(st.integers(0, len(boxes) - 1))
    dim = data.draw(st.integers(0, len(shape) - 1))
    offsets, sizes = map(list, boxes[number])
    change = data.draw(st.sampled_from([(1, 0), (-1, 0), (0, 1), (0, -1)]))
    offsets[dim] += change[0]
    sizes[dim] += change[1]
    changed = [*boxes[:number], Box(tuple(offsets), tuple(sizes)), *boxes[number + 1 :]]
    assert coverage_problem(shape, changed)
    assert coverage_problem(shape, [*boxes, boxes[number]])
    assert coverage_problem(shape, boxes[:number] + boxes[number + 1 :])


def test_half_that_is_there_twice_is_no_whole() -> None:
    half = Box((0, 0), (2, 4))
    assert coverage_problem((4, 4), [half, half]) == "the pieces at [0, 0] and [0, 0] overlap"
    assert coverage_problem((4, 4), [half, Box((2, 0), (2, 4))]) == ""
    assert coverage_problem((4, 4), [half]) == "its pieces have 8 elements; expected 16"
    assert "is not inside" in coverage_problem((4, 4), [half, Box((3, 0), (2, 4))])
    assert "is not inside" in coverage_problem((4, 4), [Box((0,), (16,))])
    assert coverage_problem((), [Box((), ())]) == ""
