"""Mixers of RetNet and Hyena, written from their papers: no installed library has them.

Shape letters: B batch, T time (tokens), D channels, H heads, K key channels of a head, V value
channels of a head, L longest sequence, E channels of a filter's network.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.modules.rotary import rotary_phases, rotate


class Retention(nn.Module):
    """Multi-scale retention in its parallel form: fixed decays, rotary phases, gate.

    Values are twice as wide as keys. The paper's normalisations of the scores only scale each
    token's output, which the norm of each head takes away again.

    Source: Sun et al. 2023 (arXiv 2307.08621).
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qk_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.vg_proj = nn.Linear(dim, 4 * dim, bias=False)
        self.out_proj = nn.Linear(2 * dim, dim, bias=False)
        self.norm = nn.GroupNorm(num_heads, 2 * dim)
        for projection in (self.qk_proj, self.vg_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-2.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k = self.qk_proj(x_BTD).chunk(2, dim=-1)
        v, gate = self.vg_proj(x_BTD).chunk(2, dim=-1)
        q, k, v = (i.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for i in (q, k, v))
        y_BHTV = self.retain(q, k, v)
        normal = self.norm(y_BHTV.transpose(1, 2).flatten(2).flatten(0, 1)).view_as(gate)
        y: Tensor = self.out_proj(F.silu(gate) * normal)
        return y

    def retain(self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor) -> Tensor:
        """y_t = sum over s <= t of decay^(t - s) (q_t . k_s) v_s, with rotated q and k."""
        T, K = q_BHTK.shape[-2:]
        phases = rotary_phases(0, T, K, 10_000.0, like=q_BHTK)
        q, k = (rotate(i, *phases) for i in (q_BHTK, k_BHTK * K**-0.5))
        lag_TT = torch.arange(T)[:, None] - torch.arange(T)
        decay_H = 1.0 - 2.0 ** (-5.0 - torch.arange(self.num_heads, dtype=q.dtype))
        weight = torch.where(lag_TT >= 0, decay_H[:, None, None] ** lag_TT.clamp(min=0), 0.0)
        return (q @ k.mT * weight) @ v_BHTV


class Hyena(nn.Module):
    """Hyena of order 2: y = x_1 * (h conv (x_2 * v)), h a network's function of the position.

    As in the authors' code: short convolutions of 3 taps, filters with sines as activations and
    an exponential window per channel. The filter has a longest length.

    Source: Poli et al. 2023 (arXiv 2302.10866).
    """

    position_TE: Tensor
    decay_D: Tensor

    def __init__(self, dim: int, length: int, width: int = 64, bands: int = 16):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.short = nn.Conv1d(3 * dim, 3 * dim, 3, padding=2, groups=3 * dim)
        layers: list[nn.Module] = [nn.Linear(1 + 2 * bands, width), Sine(width)]
        for _ in range(2):
            layers += [nn.Linear(width, width), Sine(width)]
        self.network = nn.Sequential(*layers, nn.Linear(width, dim, bias=False))
        self.skip = nn.Parameter(torch.randn(dim))
        t_L1 = torch.linspace(0.0, 1.0, length)[:, None]
        angle = 2.0 * math.pi * torch.arange(length)[:, None] / length
        angle = angle * torch.linspace(1e-4, bands - 1, bands)
        self.register_buffer("position_TE", torch.cat([t_L1, angle.cos(), -angle.sin()], dim=-1))
        slowest, fastest = math.log(100.0) / 1.5, math.log(100.0) / 0.3
        self.register_buffer("decay_D", torch.linspace(slowest, fastest, dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D].

        Raises:
            ValueError: The sequence is longer than the filter.
        """
        T, length = x_BTD.shape[1], len(self.position_TE)
        if length < T:
            raise ValueError(f"Hyena: expected at most {length} tokens, got {T}")
        x_B3T = self.short(self.in_proj(x_BTD).mT)[..., :T]
        first, second, v = x_B3T.chunk(3, dim=1)
        y_BDT = first * self.convolve(second * v)
        y: Tensor = self.out_proj(y_BDT.mT)
        return y

    def filter(self, T: int) -> Tensor:
        """The first T taps of each channel [D, T]."""
        position_TE = self.position_TE[:T]
        taps: Tensor = self.network(position_TE) * torch.exp(-position_TE[:, :1] * self.decay_D)
        return taps.mT

    def convolve(self, u_BDT: Tensor) -> Tensor:
        """Causal convolution with the filter, and the skip connection."""
        T = u_BDT.shape[-1]
        spectrum = torch.fft.rfft(u_BDT, n=2 * T) * torch.fft.rfft(self.filter(T), n=2 * T)
        return torch.fft.irfft(spectrum, n=2 * T)[..., :T] + self.skip[:, None] * u_BDT


class Sine(nn.Module):
    """sin(f x) with a learned frequency per channel, 10 at first."""

    def __init__(self, width: int):
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return torch.sin(self.frequency * x)
