"""Owner of every element of the logical state: one of the ranks that hold it writes it, once.

The logical state knows no layout: for every parameter, under its name in `SpectralLM.state_dict()`,
it has `value/NAME` and a tensor of the same shape for each name in `OptimConfig.state_tensors`
(AdamW: `exp_avg/NAME`, `exp_avg_sq/NAME`), and the number `step/NAME`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoint.boxes import Box, Piece, pieces
from pretrain.checkpoint.deepspeed_state import VALUE, Fragment, fragments
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.runtime.ranks import gathered_objects

# a part of a parameter: its name, and the ranges of a tensor-parallel split
Part = tuple[str, tuple[tuple[int, int], ...]]

# numbers that are read at a time, 64 MiB
BATCH_ELEMENTS = 1 << 24


def owned_shards(engine: Any, state_tensors: Sequence[str]) -> dict[str, Shard]:
    """Copies, in host memory, of the tensors that this rank must write; a collective.

    Args:
        engine: The DeepSpeed engine.
        state_tensors: Names of the tensors that its optimizer keeps per parameter.
    """
    held = [fragment for fragment in fragments(engine, state_tensors) if fragment.numel]
    replicas = gathered_objects({_part(fragment): fragment.replica for fragment in held})
    writers = choose_writers(replicas)
    shards: dict[str, Shard] = {}
    for fragment in held:
        if fragment.replica != writers[_part(fragment)]:
            continue
        for kind in (VALUE, *state_tensors):
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
    engine: Any, state_tensors: Sequence[str], read: Callable[[dict[str, Shard]], None]
) -> None:
    """Fill this rank's parameters and optimizer state; `finish_puts` completes it.

    Besides the engine's own memory it needs about `BATCH_ELEMENTS` float32 numbers, or those of the
    largest parameter's fragment.

    Args:
        engine: The DeepSpeed engine.
        state_tensors: Names of the tensors that its optimizer keeps per parameter.
        read: Function that fills shards, in host memory; called once per batch.
    """
    kinds = (VALUE, *state_tensors)
    batch: list[Fragment] = []
    for fragment in fragments(engine, state_tensors):
        if batch and sum(f.numel for f in [*batch, fragment]) * len(kinds) > BATCH_ELEMENTS:
            _load_batch(batch, kinds, read)
            batch = []
        if fragment.numel:
            batch.append(fragment)
    _load_batch(batch, kinds, read)


def _load_batch(
    batch: Sequence[Fragment], kinds: Sequence[str], read: Callable[[dict[str, Shard]], None]
) -> None:
    wanted: dict[str, Shard] = {}
    buffers: list[dict[str, Tensor]] = []
    for fragment in batch:
        # padding stays zero
        buffer = {kind: torch.zeros(fragment.numel) for kind in kinds}
        for kind, values in buffer.items():
            _add(wanted, kind, fragment, values)
        step = wanted.setdefault(
            f"step/{fragment.placement.name}",
            Shard((1,), [Piece(Box((0,), (1,)), torch.empty(1))]),
        )
        buffers.append(buffer | {"step": step.pieces[0].values})
    read(wanted)
    for fragment, buffer in zip(batch, buffers, strict=True):
        for kind in kinds:
            fragment.put(kind, buffer[kind])
        fragment.state["step"].fill_(float(buffer["step"]))


def _add(shards: dict[str, Shard], kind: str, fragment: Fragment, values: Tensor) -> None:
    placement = fragment.placement
    shard = shards.setdefault(f"{kind}/{placement.name}", Shard(placement.shape, []))
    shard.pieces.extend(pieces(values, placement, fragment.start))


def _part(fragment: Fragment) -> Part:
    return fragment.placement.name, fragment.placement.ranges


def _is_first(fragment: Fragment) -> bool:
    """Whether the first element of a fragment's part is the first of the whole parameter."""
    ranges = fragment.placement.ranges
    return fragment.placement.dim is None or (bool(ranges) and ranges[0][0] == 0)
