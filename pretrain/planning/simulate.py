"""Simulation of thousands of ranks on one machine: the training code without data or peers.

Tensors are fake (shapes only) and so is the process group, so the figures are those of the code
itself: parameters of a rank, every collective that it issues, and the operations of a pass. The
work of DeepSpeed after the passes is computed from its rules.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import RunConfig
from pretrain.parallel.layout_checks import check_layout
from pretrain.parallel.matrices import state_tensors_per_number
from pretrain.parallel.mesh import Mesh, build_mesh
from pretrain.parallel.placement import Placement, place
from pretrain.parallel.split_model import finish_model, split_part
from pretrain.planning.flops import op_formulas
from pretrain.planning.traffic import TrafficCounter
from pretrain.runtime.ranks import Ranks
from spectral.layer_pattern import layer_period
from spectral.layout import ExpertDispatch
from spectral.lm import SpectralLM

# float32: parameters, gradients and each tensor of the optimizer's state
BYTES = 4
# message of DeepSpeed that announces the shapes of activations to the next stage
SHAPES_BYTES = 4 * 256


class Simulation(NamedTuple):
    """Memory, traffic and operations of rank 0 of a layout in an optimizer step.

    Attributes:
        parameters: Parameters of its part of the model, before ZeRO shards them.
        state_bytes: Bytes of parameters, gradients and optimizer state after ZeRO sharded them.
        sent: Bytes that it sends, by kind of collective.
        flops: Floating-point operations of forward and backward passes, without recomputation.
    """

    parameters: int
    state_bytes: int
    sent: dict[str, int]
    flops: int


def simulate(run: RunConfig, num_ranks: int) -> Simulation:
    """Figures of rank 0, whose part is built from fake tensors and runs one micro-batch.

    A stage of a pipeline is counted as one that has the most blocks, the embedding and the loss.

    Args:
        run: The run.
        num_ranks: Number of ranks to simulate.

    Raises:
        RunError: The layout is impossible.
    """
    check_layout(run, num_ranks)
    parallel = run.parallel
    stage = run.model.model_copy(
        update={"num_layers": -(-run.model.num_layers // parallel.pipeline)}
    )
    with _fake_ranks(num_ranks), FakeTensorMode(allow_non_fake_inputs=True):
        mesh = build_mesh(parallel, Ranks(0, num_ranks, torch.device("cpu")))
        model = _part(run.model_copy(update={"model": stage}), mesh)
        parts = _sharded(model, mesh)
        with _even_experts():
            wire, flops = _all_blocks(model, run, mesh)
    passes = run.train.global_batch_size // (run.train.micro_batch_size * mesh.data.size)
    sent = Counter({name: count * passes for name, count in wire.items()})
    sent.update(_pipeline_bytes(run, mesh, model, passes))
    for parameters, ranks in parts:
        sent.update(_zero_bytes(parameters, parallel.zero_stage, ranks, passes))
    return Simulation(
        sum(parameters for parameters, _ in parts),
        sum(_state_bytes(run, parameters, ranks) for parameters, ranks in parts),
        dict(sent),
        flops * passes,
    )


@contextmanager
def _fake_ranks(num_ranks: int) -> Iterator[None]:
    if dist.is_initialized():
        raise RuntimeError("a simulation needs a process without a process group")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        dist.destroy_process_group()


def _part(run: RunConfig, mesh: Mesh) -> SpectralLM:
    model = SpectralLM(run.model)
    for name, part in model.parts():
        for key, parameter in part.named_parameters():
            place(parameter, Placement(f"{name}.{key}", tuple(parameter.shape)))
        local: nn.Module = split_part(part, name, run.parallel, mesh)
        if local is not part:
            setattr(model, name, local)
    finish_model(model, run, mesh)
    return model


def _sharded(model: SpectralLM, mesh: Mesh) -> list[tuple[int, int]]:
    """(parameters, ranks that shard them), for shared experts and for all other parameters."""
    shared = [p.numel() for p in model.parameters() if not getattr(p, "allreduce", True)]
    everything = sum(p.numel() for p in model.parameters())
    return [
        (everything - sum(shared), mesh.zero.size),
        (sum(shared), mesh.zero.size // mesh.expert.size),
    ]


@contextmanager
def _even_experts() -> Iterator[None]:
    """Give all experts equally many rows, since fake counts have no values."""
    real = ExpertDispatch.numbers

    def even(_delivery: ExpertDispatch, counts: Tensor, rows: int) -> Any:
        E = counts.shape[-1] * (counts.shape[1] if counts.ndim > 1 else 1)
        share = [rows * (e + 1) // E - rows * e // E for e in range(E)]
        if counts.ndim == 1:
            return share
        L = counts.shape[-1]
        return [[share[first : first + L] for first in range(0, E, L)]] * 2

    ExpertDispatch.numbers = even  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ExpertDispatch.numbers = real  # type: ignore[method-assign]


def _all_blocks(model: SpectralLM, run: RunConfig, mesh: Mesh) -> tuple[Counter[str], int]:
    """The figures of `_pass`, extrapolated from one and two periods of the layer pattern."""
    blocks, period = model.blocks, layer_period(run.model)
    rounds, rest = divmod(len(blocks), period)
    if rounds <= 2:
        return _pass(model, run, mesh)
    model.blocks = nn.ModuleList(list(blocks)[: 2 * period + rest])
    twice, twice_flops = _pass(model, run, mesh)
    model.blocks = nn.ModuleList(list(blocks)[: period + rest])
    once, once_flops = _pass(model, run, mesh)
    further = rounds - 1
    sent = Counter({name: once[name] + further * (twice[name] - once[name]) for name in twice})
    return sent, once_flops + further * (twice_flops - once_flops)


def _pass(model: SpectralLM, run: RunConfig, mesh: Mesh) -> tuple[Counter[str], int]:
    """(bytes by collective, operations) of a forward and a backward pass."""
    length = run.data.sequence_length // mesh.sequence.size
    tokens = torch.zeros(run.train.micro_batch_size, length, dtype=torch.long)
    counter = FlopCounterMode(display=False, custom_mapping=op_formulas())
    with TrafficCounter() as wire, counter:
        loss = model(tokens, None, tokens)
        (loss.nll + loss.auxiliary).backward()
    return wire.bytes, counter.get_total_flops()


def _pipeline_bytes(run: RunConfig, mesh: Mesh, model: SpectralLM, passes: int) -> dict[str, int]:
    """Bytes that a middle stage sends in a step, and bytes of the sum over first and last stage."""
    if mesh.pipeline.size == 1:
        return {}
    tokens = run.train.micro_batch_size * run.data.sequence_length // mesh.sequence.size
    local_tokens = tokens // mesh.tensor.size if run.parallel.shard_activations else tokens
    # activations and the auxiliary loss forward, their gradients back
    activations = 2 * BYTES * (local_tokens * run.model.dim + 1)
    segment_ids = torch.int64.itemsize * tokens
    table = sum(parameter.numel() for parameter in model.embedding.parameters())
    return {
        "between stages": passes * (activations + segment_ids + SHAPES_BYTES),
        "tied embedding": BYTES * table,
    }


def _zero_bytes(parameters: int, stage: int, ranks: int, passes: int) -> dict[str, int]:
    """Bytes that DeepSpeed sends: gradients once per step (stages 2, 3: per pass), and shards."""
    if ranks == 1:
        return {}
    gradients = BYTES * parameters * (passes if stage >= 2 else 1)
    shard = BYTES * parameters // ranks
    # stage 3 gathers for every forward and for every backward pass
    gathers = {0: 0, 1: 1, 2: 1, 3: 2 * passes}[stage]
    return {"gradients": gradients, "parameter shards": gathers * shard}


def _state_bytes(run: RunConfig, parameters: int, ranks: int) -> int:
    stage = run.parallel.zero_stage
    shards = [ranks if stage >= least else 1 for least in (3, 2, 1)]
    values, gradients, state_tensor = (BYTES * parameters // number for number in shards)
    # ZeRO's optimizer keeps a float32 copy of the values that it updates
    num_tensors = state_tensors_per_number(run) + (1 if stage else 0)
    return values + gradients + round(num_tensors * state_tensor)
