"""Parts of the parameters and their optimizer state that a rank holds in a DeepSpeed engine.

| ZeRO | a rank holds |
| --- | --- |
| 0 | everything |
| 1, 2 | a stretch of all parameters of a group, laid end to end |
| 3 | an equal stretch of every parameter, the last ones padded |
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.parallel.placement import Placement, placements
from pretrain.runtime.wire import rounded_gathers

# a parameter's own values, next to the names of its optimizer's state tensors
VALUE = "value"
# from a parameter's name to the names of its state tensors
StateOf = Callable[[str], Sequence[str]]


class Fragment(NamedTuple):
    """A stretch of a rank's part of a parameter, flattened, and of its optimizer state.

    Attributes:
        placement: Part of a whole parameter that the rank holds.
        start: First element of the stretch.
        numel: Number of its elements.
        replica: Lowest of the ranks that hold that part together; other groups may hold copies.
        state: Optimizer state of `tensor`; has `step`.
        tensor: Tensor of the optimizer in which the stretch lies.
        begin: First element of the stretch in that tensor, flattened.
        get: Function from a kind (`value`, or a state tensor's name) to its float32 values, which
            may be the engine's own memory.
        put: Function that replaces the values of a kind.
    """

    placement: Placement
    start: int
    numel: int
    replica: int
    state: dict[str, Tensor]
    tensor: Tensor
    begin: int
    get: Callable[[str], Tensor]
    put: Callable[[str, Tensor], None]


def fragments(engine: Any, state_of: StateOf) -> Iterator[Fragment]:
    """Everything that this rank holds.

    Args:
        engine: The DeepSpeed engine.
        state_of: Function from a parameter's name to the names of the tensors that the optimizer
            keeps for it. Those that do not exist yet are created, as zeros.
    """
    stage = engine.zero_optimization_stage()
    find = _whole if stage == 0 else _flat if stage < 3 else _partitioned
    return find(engine.optimizer, engine.module, state_of)


def optimizer_tensors(engine: Any) -> list[Tensor]:
    """The tensors that the optimizer of ZeRO 1 to 3 updates one by one, in their order."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    name = "single_partition_of_fp32_groups" if stage < 3 else "fp32_partitioned_groups_flat"
    return list(getattr(optimizer, name)) if stage else []


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer inside of ZeRO's."""
    optimizer: torch.optim.Optimizer = engine.optimizer
    return optimizer.optimizer if engine.zero_optimization_stage() else optimizer  # type: ignore[attr-defined]


def finish_puts(engine: Any) -> None:
    """Update the parameters that the model computes with; a collective, after all `put`s."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage in (1, 2):
        with rounded_gathers():
            optimizer.update_lp_params()
    if stage == 3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # every rank keeps small parameters whole
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _ensure_state(
    optimizer: torch.optim.Optimizer, parameter: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """The optimizer's state of a tensor, begun as the optimizer itself would begin it."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    for name in names:
        if name not in state:
            state.setdefault("step", torch.tensor(0.0))
            state[name] = torch.zeros_like(parameter)
    return state


def _whole(optimizer: Any, module: nn.Module, state_of: StateOf) -> Iterator[Fragment]:
    def access(parameter: nn.Parameter, placement: Placement) -> Fragment:
        state = _ensure_state(optimizer, parameter, state_of(placement.name))

        def get(kind: str) -> Tensor:
            return (parameter.detach() if kind == VALUE else state[kind]).view(-1)

        def put(kind: str, values: Tensor) -> None:
            get(kind).copy_(values)

        numel, rank = parameter.numel(), dist.get_rank()
        return Fragment(placement, 0, numel, rank, state, parameter, 0, get, put)

    for placement, parameter in placements(module):
        yield access(parameter, placement)


def _flat(optimizer: Any, module: nn.Module, state_of: StateOf) -> Iterator[Fragment]:
    replicas = [_lowest_rank(group) for group in optimizer.real_dp_process_group]

    def access(mapping: Any, placement: Placement) -> Fragment:
        group, address = mapping.param_group_index, mapping.lp_fragment_address
        begin = mapping.get_hp_fragment_address().start
        flat = optimizer.single_partition_of_fp32_groups[group]
        state = _ensure_state(optimizer.optimizer, flat, state_of(placement.name))

        def get(kind: str) -> Tensor:
            if kind == VALUE:
                return mapping.get_hp_fragment().detach()
            # DeepSpeed's own link to the states misses all groups but the first
            return state[kind][begin : begin + address.numel]

        def put(kind: str, values: Tensor) -> None:
            get(kind).copy_(values)

        start, numel = address.start, address.numel
        return Fragment(placement, start, numel, replicas[group], state, flat, begin, get, put)

    for placement, parameter in placements(module):
        if parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            yield access(parameter._hp_mapping, placement)  # type: ignore[attr-defined]


def _partitioned(optimizer: Any, module: nn.Module, state_of: StateOf) -> Iterator[Fragment]:
    # DeepSpeed is imported late: it takes seconds
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    def access(parameter: Any, placement: Placement) -> Fragment:
        size = parameter.ds_tensor.ds_numel
        start = dist.get_rank(parameter.ds_process_group) * size
        numel = min(max(parameter.ds_numel - start, 0), size)
        group, begin, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = optimizer.fp32_partitioned_groups_flat[group]
        state = _ensure_state(optimizer.optimizer, flat, state_of(placement.name))

        def padded(kind: str) -> Tensor:
            if kind == VALUE:
                return safe_get_local_fp32_param(parameter).detach()
            return safe_get_local_optimizer_state(parameter, kind).detach()

        def put(kind: str, values: Tensor) -> None:
            partition = padded(kind).clone()
            partition[:numel] = values
            if kind == VALUE:
                safe_set_local_fp32_param(parameter, partition)
            else:
                safe_set_local_optimizer_state(parameter, partition, kind)

        return Fragment(
            placement,
            start,
            numel,
            _lowest_rank(parameter.ds_process_group),
            state,
            flat,
            begin,
            lambda kind: padded(kind)[:numel],
            put,
        )

    for placement, parameter in placements(module):
        if math.prod(placement.shape):
            yield access(parameter, placement)


def _lowest_rank(group: dist.ProcessGroup) -> int:
    return min(dist.get_process_group_ranks(group))
