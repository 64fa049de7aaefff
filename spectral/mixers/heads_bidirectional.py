"""Convolution and recall heads that see both sides: two mixers' cores between one pair of maps.

Shape letters: B batch, T time (tokens), D channels, H recall heads, Z = 3 D.

Source: the two directions and shared projections of Caduceus (Schiff et al. 2024, arXiv
2403.03234).
"""

from torch import Tensor

from spectral.config import ModelConfig
from spectral.gates.losses import GateLosses, mean_losses
from spectral.mixers.context import SequenceContext
from spectral.mixers.heads import HeadsMixer, MixerState
from spectral.sequence.documents import chunk_documents


class BidirectionalMixer(HeadsMixer):
    """y = (heads over the past) + (heads with filters of their own over the future)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.reverse = _ReverseMixer(config, layer)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise both directions."""
        super().reset_parameters(std, out_std)
        self.reverse.reset_parameters(std, out_std)

    def mix(
        self,
        z_BTZ: Tensor,
        log_decay_BTH: Tensor | None,
        context: SequenceContext,
        state: MixerState | None = None,
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """Mix both ways; what is returned as memory is the past direction's."""
        y_BTD, state, losses = super().mix(z_BTZ, log_decay_BTH, context, state)
        decay = None if log_decay_BTH is None else log_decay_BTH.flip(1)
        reverse_BTD, _, reverse_losses = self.reverse.mix(z_BTZ.flip(1), decay, _reversed(context))
        both = mean_losses([(losses, 0.5), (reverse_losses, 0.5)])
        return y_BTD + reverse_BTD.flip(1), state, both


class _ReverseMixer(HeadsMixer):
    """What mixes along the sequence only: the projections are the forward direction's."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        del self.in_proj, self.out_proj, self.decay_proj, self.head_norm

    def reset_parameters(self, std: float, out_std: float) -> None:
        del std, out_std
        self.short_conv.reset_parameters()
        if self.filter is not None:
            self.filter.reset_parameters()


def _reversed(context: SequenceContext) -> SequenceContext:
    """The same sequence read backwards; positions count from its end."""
    if context.segment_ids_BT is None:
        return context
    segments_BT = context.segment_ids_BT.flip(1)
    documents = {chunk: chunk_documents(segments_BT, chunk) for chunk in context.documents}
    return context._replace(segment_ids_BT=segments_BT, documents=documents)
