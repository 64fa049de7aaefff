"""The gates of `spectral.gating` on the bins of an FFT, whatever their number.

Shape letters: B batch, J chunks, H head, N channels of a head, K bins, M groups of bins.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.spectral_gate.op import gate_spectrum
from spectral.config import ModelConfig
from spectral.gating import GateLosses, SpectralGate, uses_gates
from spectral.span import Span


class SpectrumGate(nn.Module):
    """A `SpectralGate` of M groups of neighbouring bins: no parameter depends on the FFT's length.

    In a causal model the spectrum must be of the past, in a bidirectional one it is the real one.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_groups = config.num_modes
        self.gate = SpectralGate(config, config.num_heads, config.num_modes)

    def reset_parameters(self) -> None:
        """Begin as the identity."""
        self.gate.reset_parameters()

    def forward(self, spectrum_BJHNK: Tensor, span: Span) -> tuple[Tensor, GateLosses]:
        """(the spectrum as it is read, auxiliary losses). Cost: O(B J H (N K + M (H + M)))."""
        B, J, _, _, K = spectrum_BJHNK.shape
        size = -(-K // self.num_groups)
        padded = F.pad(spectrum_BJHNK, (0, size * self.num_groups - K)).flatten(0, 1)
        by_group_RHNM = padded.unflatten(-1, (-1, size)).transpose(-1, -2).flatten(2, 3)
        gate_RHM, losses = self.gate(by_group_RHNM, B, span)
        gate_RHK = gate_RHM.repeat_interleave(size, dim=-1)[..., :K]
        read_RHNK = gate_spectrum(spectrum_BJHNK.flatten(0, 1), gate_RHK)
        return read_RHNK.unflatten(0, (B, J)), losses


def build_gate(config: ModelConfig) -> SpectrumGate | None:
    """The gate that the configuration asks for, if any."""
    return SpectrumGate(config) if uses_gates(config) else None
