"""Complex spectral gate: a spectrum's energy, the gate made from it, and the gated spectrum.

    gate = keep ((1 - rest) gain relu(1 - limit / magnitude) e^(i phase) + rest)

Shape letters: R rows (batch times chunks), H head, N channels of a head, M bins (modes).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class GateParts(NamedTuple):
    """Real parts from which a gate is made.

    Attributes:
        magnitude_RHM: Magnitude of each bin, above 0.
        gain_RHM: Factor of each bin.
        phase_RHM: Angle by which each bin is rotated.
        limit_RH: Soft threshold; bins of a smaller magnitude become zero.
        rest_H: Share of the spectrum that bypasses the gate.
        keep_RHM: Factor of gate and rest; 0 for dropped bins.
    """

    magnitude_RHM: Tensor
    gain_RHM: Tensor
    phase_RHM: Tensor
    limit_RH: Tensor
    rest_H: Tensor
    keep_RHM: Tensor


def spectral_energy(spectrum_RHNM: Tensor) -> Tensor:
    """Mean over the channels of |spectrum|^2: real [R, H, M]. The spectrum is read once."""
    pairs = torch.view_as_real(spectrum_RHNM)
    return torch.linalg.vecdot(pairs, pairs).mean(dim=2)


def spectral_energy_backward(grad_RHM: Tensor, spectrum_RHNM: Tensor) -> Tensor:
    """Gradient of `spectral_energy`."""
    return spectrum_RHNM * (grad_RHM * (2.0 / spectrum_RHNM.shape[2]))[:, :, None]


def _pass_and_turn(parts: GateParts) -> tuple[Tensor, Tensor]:
    """Share that passes the soft threshold, and e^(i phase)."""
    pass_RHM = torch.relu(1.0 - parts.limit_RH[..., None] / parts.magnitude_RHM)
    return pass_RHM, torch.polar(torch.ones_like(parts.phase_RHM), parts.phase_RHM)


def gate_values(
    magnitude_RHM: Tensor,
    gain_RHM: Tensor,
    phase_RHM: Tensor,
    limit_RH: Tensor,
    rest_H: Tensor,
    keep_RHM: Tensor,
) -> Tensor:
    """Complex gate_RHM made from its parts; arguments as in `GateParts`."""
    parts = GateParts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
    pass_RHM, turn_RHM = _pass_and_turn(parts)
    rest_H1 = rest_H[:, None]
    return keep_RHM * ((1.0 - rest_H1) * gain_RHM * pass_RHM * turn_RHM + rest_H1)


def gate_values_backward(
    grad_RHM: Tensor,
    magnitude_RHM: Tensor,
    gain_RHM: Tensor,
    phase_RHM: Tensor,
    limit_RH: Tensor,
    rest_H: Tensor,
    keep_RHM: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `gate_values` with respect to the six parts, in order."""
    parts = GateParts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
    pass_RHM, turn_RHM = _pass_and_turn(parts)
    rest_H1 = rest_H[:, None]
    amplitude_RHM = gain_RHM * pass_RHM
    along_RHM = grad_RHM.conj() * turn_RHM
    dkeep_RHM = (1.0 - rest_H1) * amplitude_RHM * along_RHM.real + rest_H1 * grad_RHM.real
    drest_H = (keep_RHM * (grad_RHM.real - amplitude_RHM * along_RHM.real)).sum((0, 2))
    share_RHM = keep_RHM * (1.0 - rest_H1)
    dphase_RHM = -share_RHM * amplitude_RHM * along_RHM.imag
    damplitude_RHM = share_RHM * along_RHM.real
    # nothing flows through a closed threshold
    dpass_RHM = damplitude_RHM * gain_RHM * (pass_RHM > 0)
    dlimit_RH = -(dpass_RHM / magnitude_RHM).sum(-1)
    dmagnitude_RHM = dpass_RHM * limit_RH[..., None] / magnitude_RHM.square()
    return dmagnitude_RHM, damplitude_RHM * pass_RHM, dphase_RHM, dlimit_RH, drest_H, dkeep_RHM


def gate_spectrum(spectrum_RHNM: Tensor, gate_RHM: Tensor) -> Tensor:
    """The spectrum times the gate of its head and bin; it is read once and written once."""
    return spectrum_RHNM * gate_RHM[:, :, None]


def gate_spectrum_backward(
    grad_RHNM: Tensor, spectrum_RHNM: Tensor, gate_RHM: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `gate_spectrum`: (dspectrum_RHNM, dgate_RHM)."""
    dgate_RHM = (spectrum_RHNM.conj() * grad_RHNM).sum(2)
    return grad_RHNM * gate_RHM.conj()[:, :, None], dgate_RHM
