"""Bidirectional wavelet mixer: modal filters on every level of a decimated wavelet analysis.

Shape letters: B batch, T time (tokens), D channels.
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.filters.two_sided import TwoSidedFilter
from spectral.gates.losses import GateLosses, mean_losses
from spectral.layout import Layout
from spectral.mixers.base import ConvolutionMixer
from spectral.mixers.context import SequenceContext
from spectral.mixers.per_document import mix_whole
from spectral.modules.wavelet_transform import FilterBank, decompose, reconstruct


class WaveletEncoderMixer(ConvolutionMixer):
    """Decimated analysis, a two-sided filter on every level, and synthesis; bidirectional."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        del layer
        wavelet = config.wavelet
        self.bank, self.num_levels = FilterBank.from_flat(wavelet.bank), wavelet.levels
        self.levels = nn.ModuleList(
            TwoSidedFilter(config, config.num_heads, config.dim) for _ in range(self.num_levels + 1)
        )

    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: None
    ) -> tuple[Tensor, None, GateLosses | None]:
        """Mix every document in both directions."""
        del past
        y_BTD, losses = mix_whole(self._mix_levels, u_BTD, context)
        return y_BTD, None, losses

    def _mix_levels(self, u_BDT: Tensor, layout: Layout) -> tuple[Tensor, GateLosses | None]:
        coefficients = decompose(u_BDT, self.bank, self.num_levels)
        mixed = [level(part, layout) for level, part in zip(self.levels, coefficients, strict=True)]
        y_BDT = reconstruct([part for part, _ in mixed], self.bank, u_BDT.shape[-1])
        return y_BDT, mean_losses([(losses, 1.0) for _, losses in mixed])
