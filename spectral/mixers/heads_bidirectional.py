"""Bidirectional mixer of heads: two sets of heads, one for each direction, share the projections.

Shape letters: B batch, T time (tokens), D channels, Z = 3 D.

Source: the two directions and shared projections of Caduceus (Schiff et al. 2024, arXiv
2403.03234).
"""

from torch import Tensor

from spectral.config import ModelConfig
from spectral.gates.losses import GateLosses, mean_losses
from spectral.mixers.base import MixerState
from spectral.mixers.context import SequenceContext
from spectral.mixers.heads import HeadsMixer


class BidirectionalMixer(HeadsMixer):
    """Sum of heads over the past and heads with separate filters over the future."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.reverse = _ReverseMixer(config, layer)

    def mix(
        self,
        z_BTZ: Tensor,
        x_BTD: Tensor,
        context: SequenceContext,
        state: MixerState | None = None,
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """Mix in both directions; the state is that of the forward direction."""
        y_BTD, state, losses = super().mix(z_BTZ, x_BTD, context, state)
        # the reverse direction shares projections, but not the short convolution
        backward = context.backward
        if backward is None:
            raise ValueError("context: expected one of a bidirectional model, got a causal one's")
        short_conv, flipped_BTZ = self.reverse.short_conv, z_BTZ.flip(1)
        past_BWD = backward.layout.span.before(flipped_BTZ, short_conv.width - 1)
        reverse_BTZ, _ = short_conv(
            flipped_BTZ, backward.segment_ids_BT, past_BWD, backward.before_BW
        )
        controls = self.controls(x_BTD.flip(1))
        reverse_BTD, _, reverse_losses = self.reverse.mix_heads(
            reverse_BTZ.unflatten(-1, (3, -1)), controls, backward, None
        )
        both = mean_losses([(losses, 0.5), (reverse_losses, 0.5)])
        return y_BTD + reverse_BTD.flip(1), state, both


class _ReverseMixer(HeadsMixer):
    """Short convolution, filter and recall of the reverse direction."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        del self.in_proj, self.out_proj, self.head_norm
        for name in self.per_head_projections:
            delattr(self, name)

    def reset_parameters(self, *_: float) -> None:
        self.short_conv.reset_parameters()
        self.reset_bias()
        if self.filter is not None:
            self.filter.reset_parameters()
