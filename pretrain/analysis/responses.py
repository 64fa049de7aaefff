"""Responses of modal filters: impulse, frequency, poles.

Shape letters: D channels, M modes, H heads, L lags, W frequencies.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spectral.filters.modal import ModalFilter

NUM_LAGS, NUM_FREQUENCIES, LONGEST_LAG = 96, 128, 262_144
# poles of a layer in a picture
MOST_POLES = 600


def lags() -> Tensor:
    """Lags from 0 on, one by one at first, then evenly spaced in their logarithms."""
    points = torch.logspace(0.0, math.log10(LONGEST_LAG), NUM_LAGS, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), points.round()]).unique()


def frequencies() -> Tensor:
    """Frequencies from 0 to pi, in radians per token."""
    return torch.linspace(0.0, math.pi, NUM_FREQUENCIES, dtype=torch.float64)


def impulse_response(module: ModalFilter, lags_L: Tensor) -> Tensor:
    """h[t] at some lags: real [D, L]."""
    powers_DML = torch.exp(module.log_lambda()[..., None] * lags_L)
    response_DL = (module.amplitudes().to(torch.complex128)[..., None] * powers_DML).sum(1).real
    return response_DL + module.skip.double()[:, None] * (lags_L == 0)


def frequency_response(module: ModalFilter, omega_W: Tensor) -> Tensor:
    """H(omega) = sum over t of h[t] exp(-i omega t), in closed form: complex [D, W]."""
    lambda_DM1 = module.log_lambda().exp()[..., None]
    amplitude_DM1 = module.amplitudes().to(torch.complex128)[..., None]
    z_W = torch.exp(-1j * omega_W)
    both = amplitude_DM1 / (1 - lambda_DM1 * z_W) + amplitude_DM1.conj() / (
        1 - lambda_DM1.conj() * z_W
    )
    return both.sum(1) / 2 + module.skip.double()[:, None]


@torch.no_grad()
def filter_figures(model: nn.Module, head_dim: int) -> dict[str, dict[str, Any]]:
    """Responses of every filter by its name: root mean squares over the channels of each head."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ModalFilter):
            heads = module.num_channels // head_dim
            lags_L, omega_W = lags(), frequencies()
            poles_X = module.log_lambda().exp().flatten()
            step = -(-len(poles_X) // MOST_POLES)
            found[name] = {
                "heads": heads,
                "modes": module.num_modes,
                "lags": lags_L.tolist(),
                "impulse_response": _by_head(impulse_response(module, lags_L), heads),
                "frequencies": omega_W.tolist(),
                "frequency_response": _by_head(frequency_response(module, omega_W).abs(), heads),
                "poles": [[float(p.real), float(p.imag)] for p in poles_X[::step]],
                "time_constants": (-module.log_decay.double()).exp().flatten()[::step].tolist(),
            }
    return found


def _by_head(values_DX: Tensor, heads: int) -> list[list[float]]:
    mean_HX = values_DX.square().unflatten(0, (heads, -1)).mean(1).sqrt()
    return [[float(f"{x:.5g}") for x in row] for row in mean_HX.tolist()]
