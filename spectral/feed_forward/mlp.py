"""Feed-forward layers; they act on each token separately, so they are causal.

Shape letters: D channels, E hidden channels, F = D // 2 + 1 bins of a D-point real FFT.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.precision import full_precision
from spectral.modules.linear import Linear


class GatedFeedForward(nn.Module):
    """Gated linear unit: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_up_proj = Linear(dim, 2 * hidden, bias=False)
        self.down_proj = Linear(hidden, dim, bias=False)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise: normal with these deviations in the first and the last linear map."""
        nn.init.normal_(self.gate_up_proj.weight, std=std)
        nn.init.normal_(self.down_proj.weight, std=out_std)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class FrequencyFeedForward(nn.Module):
    """Blend over the features: (1 - alpha) * gated feed-forward + alpha * spectral path.

    The spectral path is two circular convolutions over the channels with a GELU between them, each
    a product in the frequency domain: O(D log D) per token. alpha is learned and begins at 0.12.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gated = GatedFeedForward(dim, hidden)
        # (Re, Im) of two filters
        self.filters_2F2 = nn.Parameter(torch.empty(2, dim // 2 + 1, 2))
        # a vector of one element: DeepSpeed cannot broadcast 0-dimensional parameters
        self.blend = nn.Parameter(torch.empty(1))
        self.reset_parameters(dim**-0.5, hidden**-0.5)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; filters begin near the identity (first) and near zero (second)."""
        self.gated.reset_parameters(std, out_std)
        with torch.no_grad():
            self.filters_2F2.normal_(std=0.02)
            self.filters_2F2[0, :, 0] += 1.0
            self.blend.fill_(-2.0)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        alpha = self.blend.sigmoid()
        return ((1.0 - alpha) * self.gated(x) + alpha * self._spectral(x)).to(x.dtype)

    def _spectral(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            # cuFFT has no bfloat16
            values = full_precision(x)
            first_F, second_F = torch.complex(self.filters_2F2[..., 0], self.filters_2F2[..., 1])
            values = F.gelu(_convolve(values, first_F))
            return _convolve(values, second_F).to(x.dtype)


def _convolve(x: Tensor, filter_F: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * filter_F, n=x.shape[-1])
