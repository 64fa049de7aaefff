"""Tensor parallelism: the ranks of a group share every layer.

Heads are distributed: a rank has its share of the heads of each kind with all their channels, modes
and norms. Gates read all heads, so every rank computes them for all heads from the gathered
energies, H x M numbers per chunk: the networks are small, and random numbers are the same in every
layout. Linear layers and the vocabulary are split as in Megatron-LM
(Shoeybi et al. 2019, arXiv 1909.08053), by Megatron-core's modules.

Shape letters: D channels, R rows, H heads, M modes.
"""

from typing import Any

from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from pretrain.parallel.activation_sharding import all_tokens, summed_tokens
from pretrain.parallel.collectives import all_reduce, gathered_along
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement, cut
from pretrain.runtime.precision import current_autocast
from spectral.block import Block, PairBlock
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import FrequencyFeedForward, GatedFeedForward
from spectral.filters.gated import GatedFilter
from spectral.filters.modal import ModalFilter
from spectral.gates.spectral_gate import SpectralGate
from spectral.layout import HeadGroup
from spectral.mixers.base import SequenceMixer
from spectral.mixers.fusion import SpectralFusion
from spectral.modules.chunk_fusion import ChunkFusion
from spectral.modules.framing import Frames
from spectral.modules.linear import WideLinear, linear, rounds_here, wide_linear

Ranges = tuple[tuple[int, int], ...]


class _CastBefore:
    """Cast of operands before Megatron's product, whose backward supports only CUDA's autocast."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **others: Any) -> Tensor:
        dtype = current_autocast() or weight.dtype
        bias = others.pop("bias")
        if bias is not None:
            bias = bias.to(dtype)
        output: Tensor = super()._forward_impl(  # type: ignore[misc]
            input.to(dtype), weight.to(dtype), bias=bias, **others
        )
        return output


class Column(_CastBefore, ColumnParallelLinear):
    """A linear layer with this rank's share of the outputs.

    Attributes:
        rounds_weight: Whether other ranks may be sent the weight rounded to bfloat16: not if the
            outputs are float32, as those of a `WideLinear`.
    """

    weight_decays = rounds_weight = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., this rank's outputs]."""
        if not self.rounds_weight and self.disable_grad_reduce:
            return wide_linear(x, self.weight, self.bias)
        if rounds_here(x):
            # Megatron's product would be that of the processor
            if not self.disable_grad_reduce:
                x = copy_to_tensor_model_parallel_region(x, self.tp_group)
            return linear(x, self.weight, self.bias)
        output: Tensor = super().forward(x)[0]
        return output


class Row(_CastBefore, RowParallelLinear):
    """A linear layer with this rank's share of the inputs.

    Attributes:
        shard: Axis over which the sum's tokens are scattered; None: every rank gets all of them.
    """

    weight_decays = rounds_weight = True
    shard: Axis | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., this rank's inputs] -> [..., D], this rank's tokens or the same on every rank."""
        if self.shard is not None:
            return summed_tokens(linear(x, self.weight), self.shard)
        if rounds_here(x):
            y = linear(x, self.weight)
            total: Tensor = reduce_from_tensor_model_parallel_region(y, self.tp_group)
            return total
        output: Tensor = super().forward(x)[0]
        return output


def split_block(block: Block, name: str, axis: Axis, *, shard: bool) -> None:
    """Turn a whole block into this rank's part of it, in place.

    Args:
        block: Whole block on the CPU, initialised.
        name: Name of the block in the whole model.
        axis: The tensor axis; it divides the heads and the hidden channels.
        shard: Whether ranks also shard the activations between layers.
    """
    Splitter(axis, name, shard=shard).block(block)


class Splitter:
    """Splitter of one part of a model; it records the placement of each piece."""

    def __init__(self, axis: Axis, name: str, *, shard: bool):
        self.axis, self.name, self.shard = axis, name, shard
        self.config = ModelParallelConfig(
            tensor_model_parallel_size=axis.size,
            use_cpu_initialization=True,
            perform_initialization=False,
        )

    def share(self, total: int, start: int = 0) -> tuple[int, int]:
        """This rank's (begin, end) of `total` items that begin at `start`."""
        size = total // self.axis.size
        return start + self.axis.rank * size, start + (self.axis.rank + 1) * size

    def cut(self, module: nn.Module, key: str, name: str, dim: int, ranges: Ranges) -> None:
        """Replace a parameter by the given ranges of it."""
        whole: Tensor = getattr(module, key)
        cut(module, key, Placement(f"{self.name}.{name}.{key}", tuple(whole.shape), dim, ranges))

    def block(self, block: Block) -> None:
        """Split the mixer and the feed-forward."""
        self.mixer(block.mixer)
        if isinstance(block, PairBlock):
            self.fusion(block.fusion)
        feed_forward, name = block.feed_forward, "feed_forward"
        if isinstance(feed_forward, FrequencyFeedForward):
            # its spectral path runs over all features, on every rank alike
            feed_forward, name = feed_forward.gated, "feed_forward.gated"
        if isinstance(feed_forward, ExpertsFeedForward):
            self.experts(feed_forward)
        else:
            self.feed_forward(feed_forward, name)

    def mixer(self, mixer: SequenceMixer) -> None:
        """Split the heads of each group, their projections, and the modules inside."""
        D = mixer.head_norm.shape[0]
        ranges = tuple(self.share(end - first, first) for first, end in mixer.channel_groups)
        ranges = tuple(part for part in ranges if part[0] < part[1])
        for name in mixer.per_head_projections:
            whole = getattr(mixer, name)
            outputs = (self.share(whole.out_features),)
            setattr(mixer, name, self.column(whole, f"mixer.{name}", outputs, reduce=False))
        packed = [
            tuple((a + i * D, b + i * D) for i in range(n) for a, b in ranges) for n in (3, 4)
        ]
        mixer.in_proj = self.column(mixer.in_proj, "mixer.in_proj", packed[1], reduce=False)
        mixer.out_proj = self.row(mixer.out_proj, "mixer.out_proj", ranges)
        self.cut(mixer, "head_norm", "mixer", 0, ranges)
        for name, module in mixer.named_modules(prefix="mixer"):
            if isinstance(module, SequenceMixer):
                # of both directions
                module.head_groups = tuple(n // self.axis.size for n in module.head_groups)
                self.cut(module.short_conv, "taps", f"{name}.short_conv", 1, packed[0])
                for key in module.per_channel_parameters:
                    *others, channels = getattr(module, key).shape
                    self.cut(module, key, name, len(others), (self.share(channels),))
            self.inside(module, name)
        # one reduction of the input's gradient for all projections
        mixer.register_forward_pre_hook(self._enter)

    def fusion(self, fusion: SpectralFusion) -> None:
        """Split the heads that read sources."""
        for name in ("query", "key", "value", "gate", "band_gate"):
            whole = getattr(fusion, name)
            heads = (self.share(whole.out_features),)
            setattr(fusion, name, self.column(whole, f"fusion.{name}", heads, reduce=True))
        channels = self.share(fusion.head_norm.shape[0])
        heads = (self.share(fusion.num_heads),)
        fusion.out_proj = self.row(fusion.out_proj, "fusion.out_proj", (channels,))
        self.cut(fusion, "head_norm", "fusion", 0, (channels,))
        for key in ("log_rate", "log_frequency", "phase"):
            self.cut(fusion, key, "fusion", 0, heads)

    def inside(self, module: nn.Module, name: str) -> None:
        """Split a module inside a mixer, by its kind."""
        if isinstance(module, ModalFilter):
            for key in ("log_decay", "frequency", "residue", "skip"):
                self.cut(module, key, name, 0, (self.share(module.num_channels),))
            module.num_channels //= self.axis.size
        elif isinstance(module, GatedFilter):
            module.num_heads //= self.axis.size
        elif isinstance(module, ChunkFusion):
            for key, parameter in list(module.named_parameters()):
                self.cut(module, key, name, 0, (self.share(len(parameter)),))
        elif isinstance(module, SpectralGate | Frames):
            # whole on every rank; their gradients are summed over all ranks' heads
            for parameter in module.parameters():
                parameter.register_hook(lambda grad: all_reduce(grad, self.axis))

    def feed_forward(self, feed_forward: GatedFeedForward, name: str) -> None:
        """Split the hidden channels."""
        hidden = feed_forward.down_proj.in_features
        begin, end = self.share(hidden)
        feed_forward.gate_up_proj = self.column(
            feed_forward.gate_up_proj,
            f"{name}.gate_up_proj",
            ((begin, end), (hidden + begin, hidden + end)),
            reduce=not self.shard,
        )
        if self.shard:
            feed_forward.register_forward_pre_hook(self._enter)
        feed_forward.down_proj = self.row(
            feed_forward.down_proj, f"{name}.down_proj", ((begin, end),)
        )

    def experts(self, experts: ExpertsFeedForward) -> None:
        """Split the hidden channels of every expert; all ranks route all tokens alike."""
        hidden = experts.down_proj.weight.shape[2]
        begin, end = self.share(hidden)
        both = ((begin, end), (hidden + begin, hidden + end))
        self.cut(experts.gate_up_proj, "weight", "feed_forward.gate_up_proj", 1, both)
        self.cut(experts.down_proj, "weight", "feed_forward.down_proj", 2, ((begin, end),))

    def column(self, whole: nn.Linear, name: str, ranges: Ranges, *, reduce: bool) -> Column:
        """The given outputs of a linear layer; `reduce`: sum its input's gradient over ranks."""
        part = Column(
            whole.in_features,
            whole.out_features,
            config=self.config,
            init_method=_keep,
            bias=whole.bias is not None,
            gather_output=False,
            disable_grad_reduce=not reduce,
            tp_group=self.axis.group,
        )
        part.weight, part.bias = whole.weight, whole.bias
        part.rounds_weight = not isinstance(whole, WideLinear)
        self.cut(part, "weight", name, 0, ranges)
        if part.bias is not None:
            self.cut(part, "bias", name, 0, ranges)
        return part

    def row(self, whole: nn.Linear, name: str, ranges: Ranges) -> Row:
        """The given inputs of a linear layer; its output is summed over ranks."""
        part = Row(
            whole.in_features,
            whole.out_features,
            config=self.config,
            init_method=_keep,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=self.axis.group,
        )
        part.weight = whole.weight
        part.shard = self.axis if self.shard else None
        self.cut(part, "weight", name, 1, ranges)
        return part

    def _enter(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.shard:
            return (all_tokens(inputs[0], self.axis), *inputs[1:])
        return (copy_to_tensor_model_parallel_region(inputs[0], self.axis.group), *inputs[1:])


class RankHeadGroup(HeadGroup):
    """This rank's heads; all ranks have equally many."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def gather(self, energy_RHM: Tensor) -> Tensor:
        """The energies of all heads; their gradient is summed over ranks."""
        return gathered_along(energy_RHM, 1, self.axis)

    def local(self, gate_RHM: Tensor) -> Tensor:
        """This rank's heads of the gate."""
        return gate_RHM.chunk(self.axis.size, dim=1)[self.axis.rank]

    def loss(self, value: Tensor) -> Tensor:
        """The loss itself, with this rank's share of its gradient: shares are summed."""
        share = value / self.axis.size
        return share + (value - share).detach()


def _keep(weight: Tensor) -> Tensor:
    return weight
