"""Owner of every element of the logical state: one of the ranks that hold it writes it, once.

The logical state knows no layout: for every parameter, under its name in `SpectralLM.state_dict()`,
it has `value/NAME` and a tensor of the same shape for each name in `OptimConfig.state_tensors`
(AdamW: `exp_avg/NAME`, `exp_avg_sq/NAME`; Muon, for matrices: `momentum_buffer/NAME`), and the
number `step/NAME`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.checkpoint.boxes import Box, Piece, pieces
from pretrain.checkpoint.deepspeed_state import VALUE, Fragment, StateOf, fragments
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.optim_config import AVERAGE
from pretrain.runtime.ranks import gathered_objects

# a part of a parameter: its name, and the ranges of a tensor-parallel split
Part = tuple[str, tuple[tuple[int, int], ...]]

# numbers that are read at a time, 64 MiB
BATCH_ELEMENTS = 1 << 24


def owned_shards(engine: Any, state_of: StateOf) -> dict[str, Shard]:
    """Copies, in host memory, of the tensors that this rank must write; a collective.

    Args:
        engine: The DeepSpeed engine.
        state_of: Function from a parameter's name to the names of its optimizer's tensors.
    """
    held = [fragment for fragment in fragments(engine, state_of) if fragment.numel]
    replicas = gathered_objects({part_of(fragment): fragment.replica for fragment in held})
    writers = choose_writers(replicas)
    shards: dict[str, Shard] = {}
    for fragment in held:
        if fragment.replica != writers[part_of(fragment)]:
            continue
        for kind in (VALUE, *state_of(fragment.placement.name)):
            _add(shards, kind, fragment, fragment.get(kind).to("cpu", torch.float32, copy=True))
        if fragment.start == 0 and _is_first(fragment):
            step = fragment.state["step"].detach().cpu().float().reshape(1).clone()
            name = f"step/{fragment.placement.name}"
            shards[name] = Shard((1,), [Piece(Box((0,), (1,)), step)])
    return shards


def choose_writers(replicas: Iterable[dict[Part, int]]) -> dict[Part, int]:
    """Writer of every part: one of the groups of ranks that hold a copy of it.

    The groups write alternate parts, so that no rank writes everything that all of them hold.

    Args:
        replicas: For each rank, the parts that it holds and the name of the group with which it
            holds each. The same list on all ranks gives the same answer.
    """
    holders: dict[Part, set[int]] = {}
    for of_rank in replicas:
        for part, replica in of_rank.items():
            holders.setdefault(part, set()).add(replica)
    return {
        part: sorted(holders[part])[turn % len(holders[part])]
        for turn, part in enumerate(sorted(holders))
    }


def load_shards(
    engine: Any, state_of: StateOf, stored_of: StateOf, read: Callable[[dict[str, Shard]], None]
) -> None:
    """Fill this rank's parameters and optimizer state; `finish_puts` completes it.

    Besides the engine's own memory it needs about `BATCH_ELEMENTS` float32 numbers, or those of the
    largest parameter's fragment.

    Args:
        engine: The DeepSpeed engine.
        state_of: Function from a parameter's name to the names of its optimizer's tensors.
        stored_of: Those of them that can be read. Others begin again: an average as a copy of the
            parameter, others as zeros; the number of steps too if none can be read.
        read: Function that fills shards, in host memory; called once per batch.
    """
    batch: list[_Buffer] = []
    numel = 0
    for fragment in fragments(engine, state_of):
        kinds = (VALUE, *state_of(fragment.placement.name))
        if batch and numel + fragment.numel * len(kinds) > BATCH_ELEMENTS:
            _load_batch(batch, stored_of, read)
            batch, numel = [], 0
        if fragment.numel:
            # padding stays zero
            batch.append(_Buffer(fragment, {kind: torch.zeros(fragment.numel) for kind in kinds}))
            numel += fragment.numel * len(kinds)
    _load_batch(batch, stored_of, read)


class _Buffer(NamedTuple):
    """A fragment, and what is to be put into it."""

    fragment: Fragment
    values: dict[str, Tensor]


def _load_batch(
    batch: Sequence[_Buffer], stored_of: StateOf, read: Callable[[dict[str, Shard]], None]
) -> None:
    wanted: dict[str, Shard] = {}
    steps: dict[str, Tensor] = {}
    for fragment, buffer in batch:
        name = fragment.placement.name
        stored = stored_of(name)
        for kind, values in buffer.items():
            if kind == VALUE or kind in stored:
                _add(wanted, kind, fragment, values)
        if name not in steps:
            steps[name] = torch.zeros(1)
            if stored:
                wanted[f"step/{name}"] = Shard((1,), [Piece(Box((0,), (1,)), steps[name])])
    read(wanted)
    for fragment, buffer in batch:
        name = fragment.placement.name
        if AVERAGE in buffer and AVERAGE not in stored_of(name):
            buffer[AVERAGE].copy_(buffer[VALUE])
        for kind, values in buffer.items():
            fragment.put(kind, values)
        fragment.state["step"].fill_(float(steps[name]))


def _add(shards: dict[str, Shard], kind: str, fragment: Fragment, values: Tensor) -> None:
    placement = fragment.placement
    shard = shards.setdefault(f"{kind}/{placement.name}", Shard(placement.shape, []))
    shard.pieces.extend(pieces(values, placement, fragment.start))


def part_of(fragment: Fragment) -> Part:
    """The part of a parameter that a fragment is a stretch of."""
    return fragment.placement.name, fragment.placement.ranges


def _is_first(fragment: Fragment) -> bool:
    """Whether the first element of a fragment's part is the first of the whole parameter."""
    ranges = fragment.placement.ranges
    return fragment.placement.dim is None or (bool(ranges) and ranges[0][0] == 0)
