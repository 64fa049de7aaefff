"""The DeepSpeed engine of a run: optimizer, schedule, precision and ZeRO stage."""

import math
from typing import Any

import torch
from torch import nn

from pretrain.config import RunConfig
from pretrain.parallel.build_model import build_model
from pretrain.parallel.layout_checks import check_layout
from pretrain.parallel.mesh import Mesh, ModelParallelUnit
from pretrain.parallel.placement import is_split
from pretrain.parallel.split_model import Fill, Settle
from pretrain.runtime.deepspeed_setup import start_deepspeed
from pretrain.runtime.ranks import Ranks
from pretrain.runtime.wire import configure_wire, round_matrices, rounded_gathers
from pretrain.training.deepspeed_config import deepspeed_config, travels_in_bfloat16
from pretrain.training.optimizer import bind_matrices, build_optimizer
from pretrain.training.schedule import build_schedule
from spectral.block import Block


def build_engine(run: RunConfig, ranks: Ranks, mesh: Mesh, fill: Fill | None = None) -> Any:
    """The engine of a rank's part of a run's model: forward, `engine.backward(loss)`, `step()`.

    A rank never holds more than its share and one whole part of the model (a block, the embedding),
    neither on the CPU nor on its device; a collective.

    Args:
        run: The run.
        ranks: This process among the ranks.
        mesh: Its place in the layout.
        fill: Fills parameters of a new model from those of another.

    Raises:
        RunError: The layout is impossible.
    """
    check_layout(run, ranks.world_size)
    model = build_model(run, mesh, _settler(run, ranks, mesh), fill)
    rounds = travels_in_bfloat16(run)
    if rounds:
        round_matrices(model)
    optimizer = build_optimizer(model, run, shares_experts=mesh.expert.size > 1)
    engine, *_ = start_deepspeed().initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=build_schedule(optimizer, run),
        mpu=_model_parallel_unit(mesh),
        dist_init_required=False,
        config=deepspeed_config(run, mesh),
    )
    bind_matrices(engine, run, mesh, ranks.device)
    if rounds:
        configure_wire(engine, sum_in_float32=run.train.gradient_reduction == "float32")
    return engine


def _settler(run: RunConfig, ranks: Ranks, mesh: Mesh) -> Settle:
    """The function that moves a part to this rank's device and, with ZeRO 3, shards it there."""

    def move(part: nn.Module) -> None:
        part.to(ranks.device)

    if run.parallel.zero_stage < 3:
        return move
    start_deepspeed()
    from deepspeed.runtime.zero import Init
    from deepspeed.utils import set_z3_leaf_module

    first: list[Any] = []

    def shard(part: nn.Module) -> None:
        move(part)
        for block in part.modules():
            if isinstance(block, Block):
                # gathered whole: parameters that a layer reads outside of `forward`, too, and no
                # hook splits a compiled graph
                set_z3_leaf_module(block, True)
        parameters = list(part.parameters())
        if first:
            first[0].convert_to_zero_parameters(param_list=parameters)
            return
        Init(
            part,
            data_parallel_group=mesh.zero.group,
            mpu=_model_parallel_unit(mesh),
            remote_device=run.parallel.offload_parameters.replace("none", ranks.device.type),
            config_dict_or_path=deepspeed_config(run, mesh),
            dtype=torch.float32,
        )
        first.append(parameters[0])

    return shard


def _model_parallel_unit(mesh: Mesh) -> ModelParallelUnit | None:
    # a pipeline brings its own grid of ranks
    return ModelParallelUnit(mesh) if mesh.tensor.size > 1 == mesh.pipeline.size else None


def set_accumulation(engine: Any, passes: int) -> None:
    """Set the number of micro-batches whose gradients the next step sums."""
    if engine.gradient_accumulation_steps() == passes:
        return
    engine._config.gradient_accumulation_steps = passes
    # boundaries are multiples of the new number, counted from here
    engine.micro_steps = 0
    engine.optimizer.gradient_accumulation_steps = passes
    if hasattr(engine, "micro_batches"):
        engine.micro_batches = passes


def gradient_norm(engine: Any) -> float:
    """Norm of the whole accumulated gradient before clipping; infinite or NaN if any part is.

    A collective; valid before `finish_step`.
    """
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return _whole_norm(engine)
    optimizer = engine.optimizer
    if stage < 3:
        return float(optimizer.scaled_global_norm()) / optimizer.loss_scale
    from deepspeed.runtime.utils import combine_grad_norm_groups

    return float(combine_grad_norm_groups(optimizer._get_norm_groups())) / optimizer.loss_scale


def _whole_norm(engine: Any) -> float:
    mpu, parameters = engine.mpu, engine.module.parameters()
    # parameters that every tensor rank holds count on the first rank only
    counted = [
        parameter.grad
        for parameter in parameters
        if parameter.grad is not None
        and (mpu is None or mpu.get_model_parallel_rank() == 0 or is_split(parameter))
    ]
    square = torch.nn.utils.get_total_norm(counted).square()
    if mpu is not None:
        torch.distributed.all_reduce(square, group=mpu.get_model_parallel_group())
    return float(square.sqrt())


def finish_step(engine: Any, *, apply: bool) -> None:
    """Apply the accumulated gradient, or discard it and leave everything as it was.

    Parameters, optimizer and schedule do not move when it is discarded.

    Args:
        engine: The DeepSpeed engine.
        apply: Whether to apply the gradient.
    """
    apply_gradient = getattr(engine, "_exec_optimizer_step", engine.step)
    if apply:
        with rounded_gathers():
            apply_gradient()
        return
    stage = engine.zero_optimization_stage()
    if stage == 0:
        engine.zero_grad()
        engine.micro_steps += 1
        return
    # DeepSpeed discards a gradient, and the step of the schedule, when its norm is not finite: here
    # its ZeRO optimizers read the norm
    infinite = torch.tensor(math.inf)
    name, norm = ("scaled_global_norm", infinite) if stage < 3 else ("_get_norm_groups", [infinite])
    setattr(engine.optimizer, name, lambda: norm)
    try:
        apply_gradient()
    finally:
        delattr(engine.optimizer, name)
