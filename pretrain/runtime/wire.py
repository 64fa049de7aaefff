"""Precision in which data ranks send one another parameters and gradients.

In bfloat16 runs, ZeRO gathers matrices rounded to bfloat16 and sums their gradients in it; vectors,
modes, decays and everything that is read in float32 travel in float32. Master weights and optimizer
states are float32 shards, and gradients are accumulated in float32.

DeepSpeed's `torch_autocast` does that for gradients, and for ZeRO 3's parameters: a parameter's
`comm_dtype` is its precision between ranks. It does not for ZeRO 1 and 2, which gather parameters
after a step, nor for the tied embedding of pipelines: these are here. DeepSpeed's own `bf16` is
not used: it casts all parameters, modes too, and keeps gradients of pipelines in a second place,
from which the tied embedding's are not summed.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# elements of a shard that are gathered at a time
PIECE = 1 << 24


def round_matrices(model: nn.Module) -> None:
    """Let the matrices of a rank's model travel in bfloat16: they are rounded where used anyway."""
    for module in model.modules():
        if getattr(module, "rounds_weight", False):
            module.weight.comm_dtype = torch.bfloat16  # type: ignore[union-attr]


def travels_rounded(parameter: nn.Parameter) -> bool:
    """Whether a parameter travels in bfloat16."""
    return getattr(parameter, "comm_dtype", None) == torch.bfloat16


def configure_wire(engine: Any, *, sum_in_float32: bool) -> None:
    """Make an engine whose matrices travel rounded gather, and sum, them so.

    Args:
        engine: DeepSpeed's engine, with `torch_autocast` and ZeRO.
        sum_in_float32: Whether gradients are summed in float32 nevertheless.
    """
    optimizer = engine.optimizer
    if sum_in_float32:
        optimizer.get_param_comm_dtype = lambda parameter: parameter.dtype
    if engine.zero_optimization_stage() < 3:
        groups = zip(optimizer.bit16_groups, optimizer.bit16_groups_flat, strict=True)
        for parameters, flat in groups:
            flat.travels_rounded = all(map(travels_rounded, parameters))
    if hasattr(engine, "_exec_reduce_tied_grads"):
        from deepspeed.runtime.pipe.schedule import ReduceTiedGrads

        def reduce_tied(engine: Any) -> None:
            for parameter, group in engine.module.get_tied_weights_and_groups():
                dtype = optimizer.get_param_comm_dtype(parameter)
                total = parameter.grad.to(dtype)
                dist.all_reduce(total, group=group)
                parameter.grad.copy_(total)

        engine._INSTRUCTION_MAP = engine._INSTRUCTION_MAP | {ReduceTiedGrads: reduce_tied}


@contextmanager
def rounded_gathers() -> Iterator[None]:
    """Context in which ZeRO 1 and 2 gather groups of matrices in bfloat16."""
    from deepspeed.runtime.zero import stage_1_and_2

    original = stage_1_and_2.all_gather_dp_groups
    # a function of its module, which the optimizer offers no way to replace
    stage_1_and_2.all_gather_dp_groups = functools.partial(_gather, original)
    try:
        yield
    finally:
        stage_1_and_2.all_gather_dp_groups = original


@contextmanager
def exact_parameters(engine: Any) -> Iterator[None]:
    """Context in which a rank computes with the master weights; a collective at its beginning.

    What is measured of a model does not depend on the ranks between which its matrices travelled.

    Args:
        engine: An engine; one without ZeRO, or a model, computes with them always.
    """
    stage = engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else 0
    rounded = [p for p in engine.parameters() if travels_rounded(p)] if stage else []
    if not rounded:
        yield
    elif stage == 3:
        _travel_in(torch.float32, rounded, engine.optimizer)
        try:
            yield
        finally:
            _travel_in(torch.bfloat16, rounded, engine.optimizer)
    else:
        optimizer = engine.optimizer
        optimizer.update_lp_params()
        try:
            yield
        finally:
            for flat, group in zip(
                optimizer.bit16_groups_flat, optimizer.real_dp_process_group, strict=True
            ):
                if flat.travels_rounded and dist.get_world_size(group) > 1:
                    flat.copy_(flat.bfloat16())


def _travel_in(dtype: torch.dtype, parameters: Sequence[Any], optimizer: Any) -> None:
    """Change the precision of ZeRO 3's gathers, and drop what is gathered in the old one."""
    optimizer.parameter_offload.partition_all_parameters()
    for parameter in parameters:
        parameter.comm_dtype = dtype
    # every rank keeps small parameters whole
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _gather(
    original: Any,
    groups_flat: Sequence[Tensor],
    partitioned_param_groups: Sequence[Sequence[Tensor]],
    dp_process_group: Sequence[dist.ProcessGroup],
    **settings: int,
) -> None:
    """DeepSpeed's gather of all groups, in bfloat16 for those that travel rounded."""
    groups = list(zip(groups_flat, partitioned_param_groups, dp_process_group, strict=True))
    for flat, partitions, group in groups:
        if getattr(flat, "travels_rounded", False):
            _gather_rounded(partitions, group)
    exact = [group for group in groups if not getattr(group[0], "travels_rounded", False)]
    if exact:
        flats, partitions_of, process_groups = zip(*exact, strict=True)
        original(
            groups_flat=flats,
            partitioned_param_groups=partitions_of,
            dp_process_group=process_groups,
            **settings,
        )


def _gather_rounded(partitions: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Replace every rank's partition, this rank's too, by its values rounded to bfloat16."""
    size, local = dist.get_world_size(group), partitions[dist.get_rank(group)]
    if size == 1:
        return
    for begin in range(0, local.numel(), PIECE):
        piece = local[begin : begin + PIECE].bfloat16()
        gathered = piece.new_empty(size, piece.numel())
        dist.all_gather_single(gathered.flatten(), piece, group=group)
        for partition, values in zip(partitions, gathered, strict=True):
            partition[begin : begin + PIECE] = values
