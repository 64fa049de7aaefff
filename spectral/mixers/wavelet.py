"""Causal wavelet mixer: modal filters on every level of a wavelet analysis.

The analysis is one-sided and undecimated, so every level has a value per token.

Shape letters: B batch, T time (tokens), D channels, G levels (details and the approximation), W
tokens that the deepest level reads.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels.precision import full_precision
from spectral.config import ModelConfig
from spectral.filters.build import CausalFilter, FilterState, build_filter
from spectral.gates.losses import GateLosses, mean_losses
from spectral.mixers.base import ConvolutionMixer
from spectral.mixers.context import SequenceContext
from spectral.modules.transpose import channels_first, time_first
from spectral.modules.wavelet_transform import FilterBank, causal_filters, causal_levels, reach
from spectral.sequence.span import Span


class WaveletState(NamedTuple):
    """State of the causal wavelet mixer: constant in size.

    Attributes:
        recent_BWD: The last W - 1 inputs, zero where their document has ended.
        filters: State of each level's filter.
    """

    recent_BWD: Tensor
    filters: tuple[FilterState, ...]


class WaveletMixer(ConvolutionMixer):
    """Sum over the levels of (level's filter) * (level of the undecimated analysis).

    Cost: O(T D G (L + log C + M)) for filters of L taps; a decoded token O(D G (W + M)).
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        del layer
        wavelet = config.wavelet
        self.bank, self.num_levels = FilterBank.from_flat(wavelet.bank), wavelet.levels
        self.width, self.chunk = reach(self.bank, self.num_levels), config.conv_chunk
        self.taps = causal_filters(self.bank, self.num_levels)
        self.levels = nn.ModuleList(
            build_filter(config, config.num_heads, config.dim) for _ in range(self.num_levels + 1)
        )

    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: WaveletState | None
    ) -> tuple[Tensor, WaveletState, GateLosses | None]:
        """Chunked form."""
        B, T, D = u_BTD.shape
        if past is None:
            recent_BWD = context.layout.span.before(u_BTD, self.width - 1)
            if recent_BWD is None:
                recent_BWD = u_BTD.new_zeros(B, self.width - 1, D)
        else:
            recent_BWD = past.recent_BWD
        u_BSD = torch.cat([recent_BWD, u_BTD], dim=1)
        last_BWD, age_BS = u_BSD[:, T:], None
        if context.segment_ids_BT is not None:
            segment_BS = self._segments(context.segment_ids_BT, context.layout.span)
            age_BS = _ages(segment_BS)
            last_BWD = last_BWD * (segment_BS[:, T:] == segment_BS[:, -1:])[..., None]
        signals = causal_levels(
            channels_first(full_precision(u_BSD)), self.bank, self.num_levels, age_BS
        )
        documents = context.documents.get(min(self.chunk, T))
        y_BDT, states, losses = u_BTD.new_zeros(()), [], []
        for index, (level, signal_BDS) in enumerate(zip(self.levels, signals, strict=True)):
            begin = None if past is None else past.filters[index]
            signal_BDT = signal_BDS[..., self.width - 1 :].to(u_BTD.dtype)
            part_BDT, state, level_losses = level(signal_BDT, documents, begin, context.layout)
            y_BDT = y_BDT + part_BDT
            states.append(state)
            losses.append((level_losses, 1.0))
        return time_first(y_BDT), WaveletState(last_BWD, tuple(states)), mean_losses(losses)

    def convolve_step(
        self, u_BD: Tensor, context: SequenceContext, past: WaveletState
    ) -> tuple[Tensor, WaveletState]:
        """Recurrent form."""
        window_BWD = torch.cat([past.recent_BWD, u_BD[:, None]], dim=1)
        taps_GW = u_BD.new_tensor(self.taps).flip(-1)
        signals = torch.einsum("gw,bwd->gbd", taps_GW, window_BWD)
        y_BD, states = torch.zeros_like(u_BD), []
        for level, signal_BD, state in zip(self.levels, signals, past.filters, strict=True):
            part_BD, after = cast(CausalFilter, level).step(
                signal_BD, state, context.position, context.layout
            )
            y_BD = y_BD + part_BD
            states.append(after)
        return y_BD, WaveletState(window_BWD[:, 1:], tuple(states))

    def _segments(self, segment_ids_BT: Tensor, span: Span) -> Tensor:
        before_BW = span.before(segment_ids_BT, self.width - 1)
        if before_BW is None:
            before_BW = segment_ids_BT[:, :1].expand(-1, self.width - 1)
        return torch.cat([before_BW, segment_ids_BT], dim=1)


def _ages(segment_BS: Tensor) -> Tensor:
    """Tokens since each token's document began."""
    time_S = torch.arange(segment_BS.shape[1], device=segment_BS.device)
    starts_BS = torch.diff(segment_BS, prepend=segment_BS[:, :1]) != 0
    return time_S - (starts_BS * time_S).cummax(dim=1).values
