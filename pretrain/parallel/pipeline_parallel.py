"""Pipeline parallelism: consecutive blocks on different ranks, by DeepSpeed's 1F1B schedule.

A stage is one layer to DeepSpeed. Stages pass on one tensor with gradient, the activations
followed by the auxiliary losses so far, because DeepSpeed runs a backward pass for each tensor
that it sends. The embedding is on the first stage and, as output layer, on the last: the gradients
of the two copies are summed.

Shape letters: B batch, T time (tokens of the span), D channels.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule
from deepspeed.runtime.pipe.schedule import OptimizerStep, PipeInstruction, TrainSchedule
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from data_pipeline.stream.batch import Batch
from kernels.precision import as_signal, work_dtype
from pretrain.config import RunConfig
from pretrain.loss import num_labels, objective
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.rng import seed_micro_batch
from pretrain.parallel.split_model import (
    Fill,
    Settle,
    empty_model,
    finish_model,
    initialised_parts,
    split_part,
)
from pretrain.parallel.stage_balance import stage_bounds
from pretrain.runtime.deepspeed_setup import start_deepspeed
from pretrain.runtime.precision import Precision
from spectral.lm import LMLoss, SpectralLM


class Stage(nn.Module):
    """This rank's blocks, with the embedding on the first and the last stage."""

    def __init__(
        self, run: RunConfig, mesh: Mesh, settle: Settle, fill: Fill | None, bounds: list[int]
    ):
        super().__init__()
        index, last = mesh.pipeline.rank, mesh.pipeline.size - 1
        self.is_first, self.is_last = index == 0, index == last
        layers = range(bounds[index], bounds[index + 1])
        model = empty_model(run.model)
        needed = {f"blocks.{layer}" for layer in layers}
        # a head of classes takes the place of the output layer
        has_table = self.is_first or (self.is_last and not run.model.classes)
        if has_table:
            needed.add("embedding")
        if self.is_last:
            needed |= {"final_norm", "head"}
        for name, part in initialised_parts(model, run, fill):
            if name not in needed:
                # initialised on all ranks alike for the random state, and dropped
                part.to_empty(device="meta")
                continue
            local_part = split_part(part, name, run.parallel, mesh)
            if local_part is not part:
                setattr(model, name, local_part)
            settle(local_part)
        blocks = [model.blocks[layer] for layer in layers]
        for name, _ in list(model.named_children()):
            if name != "blocks" and name not in needed:
                delattr(model, name)
        model.blocks = nn.ModuleList(blocks)
        finish_model(model, run, mesh, first_layer=layers.start)
        if run.train.compile:
            from pretrain.parallel.compiled_blocks import compile_blocks

            compile_blocks(model, mesh)
        self.model: SpectralLM = model
        self.has_table = has_table
        # seeds of the next micro-batches, in their order
        self.seeds: Iterator[int] = iter(())

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Input of the next stage, from (tokens or packed activations, segment ids).

        The last stage returns normalised activations, the auxiliary losses and the segment ids.
        """
        values, segment_ids_BT = inputs
        model = self.model
        B, T = segment_ids_BT.shape
        if self.training:
            seed_micro_batch(model, next(self.seeds))
        if self.is_first:
            x_BTD, auxiliary = as_signal(model.embedding(values)), None
        else:
            x_D, auxiliary = _Unpacked.apply(values)
            x_BTD = x_D.view(B, -1, model.config.dim)
        x_BTD, _, losses = model.run_blocks(x_BTD, model.layout.span.position(T), T, segment_ids_BT)
        auxiliary = losses if auxiliary is None else auxiliary + losses
        if self.is_last:
            return model.final_norm(x_BTD), auxiliary, segment_ids_BT
        return _Packed.apply(x_BTD.flatten(), auxiliary), segment_ids_BT


class _Packed(torch.autograd.Function):
    """Activations followed by the bits of the auxiliary loss, in the dtype of the activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, auxiliary: Tensor) -> Tensor:
        ctx.dtype = auxiliary.dtype
        return torch.cat([x, auxiliary[None].view(x.dtype)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return _split(grads[0], ctx.dtype)


class _Unpacked(torch.autograd.Function):
    """The activations and the auxiliary loss of `_Packed`."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> tuple[Tensor, Tensor]:
        ctx.dtype = packed.dtype
        return _split(packed, work_dtype(packed))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.cat([grads[0], grads[1][None].view(ctx.dtype)])


def _split(packed: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    places = dtype.itemsize // packed.itemsize
    return packed[:-places].clone(), packed[-places:].clone().view(dtype)[0]


class PipelinedLM(PipelineModule):
    """This rank's stage of a model, as DeepSpeed's engine expects it.

    Attributes:
        scale: Factor of the objective of each micro-batch.
        losses: Losses of the micro-batches since it was emptied, on the last stage.
    """

    def __init__(self, run: RunConfig, mesh: Mesh, settle: Settle, fill: Fill | None = None):
        bounds = stage_bounds(run, mesh)
        topology = PipeModelDataParallelTopology(
            num_pp=mesh.pipeline.size, num_mp=mesh.tensor.size, num_dp=mesh.zero.size
        )
        start_deepspeed()
        # the constructor prints its settings
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(
                [LayerSpec(Stage, run, mesh, settle, fill, bounds)] * mesh.pipeline.size,
                topology=topology,
                loss_fn=self._loss,
                partition_method="uniform",
                dynamic_shape=True,
            )
        self.stage: Stage = self.forward_funcs[0]
        precision = cast(Precision, self.stage.model.precision)
        self.stage.forward = precision.around(self.stage.forward)
        self.loss_fn = precision.around(self._loss)
        self.scale = 1.0
        self.losses: list[LMLoss] = []
        ends = [0, mesh.pipeline.size - 1]
        # every rank takes part in making every pipeline's group
        self._tied_group = None
        for ranks in topology.get_axis_comm_lists("pipe"):
            group = dist.new_group([ranks[end] for end in ends])
            if dist.get_rank() in ranks:
                self._tied_group = group
        if self.stage.is_last and self.stage.has_table:
            # norms count it on the first stage
            for parameter in self.stage.model.embedding.parameters():
                parameter.ds_pipe_replicated = True

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, Any]]:
        """The embedding, whose gradients the first and the last stage sum."""
        if self.stage.model.config.classes or not self.stage.has_table:
            return []
        return [(p, self._tied_group) for p in self.stage.model.embedding.parameters()]

    def _loss(self, outputs: tuple[Tensor, Tensor, Tensor], labels_BT: Tensor) -> Tensor:
        x_BTD, auxiliary, segment_ids_BT = outputs
        loss = self.stage.model.losses(x_BTD, labels_BT, segment_ids_BT, auxiliary)
        self.losses.append(LMLoss(loss.nll.detach(), auxiliary.detach(), loss.correct))
        return objective(loss, num_labels(labels_BT)) * self.scale


class _GradientSchedule(TrainSchedule):
    """1F1B up to the reduced gradient: whether it is applied is decided afterwards."""

    def steps(self) -> Iterator[list[PipeInstruction]]:
        for commands in super().steps():
            yield [command for command in commands if not isinstance(command, OptimizerStep)]


def accumulate_gradient(
    engine: Any, batches: Sequence[Batch], seeds: Sequence[int], scale: float
) -> list[LMLoss]:
    """Run the forward and backward passes of all micro-batches.

    Args:
        engine: DeepSpeed's pipeline engine around a `PipelinedLM`.
        batches: This data rank's micro-batches.
        seeds: Seed of each micro-batch's random numbers.
        scale: Factor of each objective.

    Returns:
        Losses of the micro-batches, on the last stage; none on others.
    """
    module: PipelinedLM = engine.module
    module.train()
    module.scale, module.losses, module.stage.seeds = scale, [], iter(seeds)
    engine.total_loss, engine._compute_loss = None, True
    _drop_buffers(engine)
    engine.set_dataiterator(_inputs(batches))
    engine._exec_schedule(_GradientSchedule(len(batches), engine.num_stages, engine.stage_id))
    return module.losses


def _drop_buffers(engine: Any) -> None:
    """Let DeepSpeed receive in another dtype: it reuses buffers for any, a probe is in float32."""
    engine._grad_layer_buf.clear()


class PipelineEvaluator:
    """All stages of a pipeline as one model that computes losses, without gradients."""

    def __init__(self, engine: Any):
        self.engine = engine

    @property
    def training(self) -> bool:
        """Whether this rank's stage is in training mode."""
        return bool(self.engine.module.training)

    def train(self, mode: bool = True) -> None:
        """Set training mode, or evaluation mode if false."""
        self.engine.module.train(mode)

    def eval(self) -> None:
        """Set evaluation mode."""
        self.train(False)

    def __call__(self, tokens_BT: Tensor, segment_ids_BT: Tensor, labels_BT: Tensor) -> LMLoss:
        """The loss on the last stage, zeros on others; a collective of the pipeline's ranks."""
        module: PipelinedLM = self.engine.module
        module.losses = []
        _drop_buffers(self.engine)
        self.engine.eval_batch(
            iter([((tokens_BT, segment_ids_BT), labels_BT)]),
            reduce_output=None,
            bcast_loss=False,
            num_micro_batches=1,
        )
        zero = torch.zeros((), device=tokens_BT.device)
        return module.losses[0] if module.stage.is_last else LMLoss(zero, zero)


def _inputs(batches: Iterable[Batch]) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    for batch in batches:
        yield (batch.tokens, batch.segment_ids), batch.labels
