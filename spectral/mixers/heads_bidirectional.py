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
from spectral.sequence.documents import chunk_documents


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
        backward = _reversed(context)
        reverse_BTZ, _ = self.reverse.short_conv(
            z_BTZ.flip(1), backward.segment_ids_BT, None, backward.before_BW
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


def _reversed(context: SequenceContext) -> SequenceContext:
    """The same sequence read backwards; positions count from its end."""
    if context.segment_ids_BT is None:
        return context
    segments_BT = context.segment_ids_BT.flip(1)
    documents = {chunk: chunk_documents(segments_BT, chunk) for chunk in context.documents}
    return context._replace(segment_ids_BT=segments_BT, documents=documents)
