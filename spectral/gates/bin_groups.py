"""The gates of `spectral.gates.spectral_gate` on the bins of an FFT, whatever their number.

Shape letters: B batch, J chunks, H head, N channels of a head, K bins, M groups of bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.spectral_gate.op import gate_spectrum
from spectral.gates.config import GatesConfig
from spectral.gates.losses import GateLosses
from spectral.gates.spectral_gate import SpectralGate, uses_gates
from spectral.layout import Layout


class BinGroupGate(nn.Module):
    """A `SpectralGate` of M groups of neighbouring bins: no parameter depends on the FFT's length.

    The groups differ by one bin at most; an FFT of fewer bins than M has a group for each.

    In a causal model the spectrum must be of the past, in a bidirectional one it is the real one.
    """

    def __init__(self, config: GatesConfig, num_heads: int, num_groups: int):
        super().__init__()
        self.num_groups = num_groups
        self.gate = SpectralGate(config, num_heads, num_groups)

    def reset_parameters(self) -> None:
        """Begin as the identity."""
        self.gate.reset_parameters()

    def forward(self, spectrum_BJHNK: Tensor, layout: Layout) -> tuple[Tensor, GateLosses]:
        """(the spectrum as it is read, auxiliary losses). Cost: O(B J H (N K + M (H + M)))."""
        B, J, _, _, K = spectrum_BJHNK.shape
        M, device = min(self.num_groups, K), spectrum_BJHNK.device
        size = -(-K // M)
        group_K = torch.arange(K, device=device) * M // K
        begin_M = -(-torch.arange(M + 1, device=device) * K // M)
        bin_Ms = begin_M[:-1, None] + torch.arange(size, device=device)
        # groups that are smaller by one are filled up with the zero at the end
        bin_Ms = torch.where(bin_Ms < begin_M[1:, None], bin_Ms, K)
        padded = F.pad(spectrum_BJHNK, (0, 1)).flatten(0, 1)
        by_group_RHNM = padded[..., bin_Ms].transpose(-1, -2).flatten(2, 3)
        gate_RHM, losses = self.gate(by_group_RHNM, B, layout)
        gate_RHK = gate_RHM[..., group_K]
        read_RHNK = gate_spectrum(spectrum_BJHNK.flatten(0, 1), gate_RHK)
        return read_RHNK.unflatten(0, (B, J)), losses


def build_gate(config: GatesConfig, num_heads: int, num_groups: int) -> BinGroupGate | None:
    """The gate of a configuration; None if all its parts are off."""
    return BinGroupGate(config, num_heads, num_groups) if uses_gates(config) else None
