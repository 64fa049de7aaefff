"""Complex spectral gate: a spectrum's energy, and the gate that multiplies it.

    gate = keep ((1 - rest) gain relu(1 - limit / magnitude) e^(i phase) + rest)

Shape letters: R rows (batch times chunks), H head, N channels of a head, M bins (modes).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class GateParts(NamedTuple):
    """What a gate is made of, all real.

    Attributes:
        magnitude_RHM: Of each bin, above 0.
        gain_RHM: Factor of each bin.
        phase_RHM: Angle by which each bin is turned.
        limit_RH: Soft threshold: bins of a smaller magnitude are zero.
        rest_H: Share that passes whatever the gate says.
        keep_RHM: Factor of gate and rest: 0 for bins that are dropped.
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


def _gate(parts: GateParts) -> tuple[Tensor, Tensor, Tensor]:
    magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM = parts
    pass_RHM = torch.relu(1.0 - limit_RH[..., None] / magnitude_RHM)
    turn_RHM = torch.polar(torch.ones_like(phase_RHM), phase_RHM)
    rest_H1 = rest_H[:, None]
    gate_RHM = keep_RHM * ((1.0 - rest_H1) * gain_RHM * pass_RHM * turn_RHM + rest_H1)
    return gate_RHM, pass_RHM, turn_RHM


def spectral_gate(
    spectrum_RHNM: Tensor,
    magnitude_RHM: Tensor,
    gain_RHM: Tensor,
    phase_RHM: Tensor,
    limit_RH: Tensor,
    rest_H: Tensor,
    keep_RHM: Tensor,
) -> tuple[Tensor, Tensor]:
    """Make the gate and multiply the spectrum with it; arguments as in `GateParts`.

    Returns:
        (spectrum times gate [R, H, N, M], gate_RHM), complex.

    Cost: the spectrum is read once and written once; all else is N times smaller.
    """
    parts = GateParts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
    gate_RHM, _, _ = _gate(parts)
    return spectrum_RHNM * gate_RHM[:, :, None], gate_RHM


def spectral_gate_backward(
    grad_RHNM: Tensor,
    grad_gate_RHM: Tensor,
    spectrum_RHNM: Tensor,
    magnitude_RHM: Tensor,
    gain_RHM: Tensor,
    phase_RHM: Tensor,
    limit_RH: Tensor,
    rest_H: Tensor,
    keep_RHM: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `spectral_gate` with respect to the spectrum and the six parts, in order."""
    parts = GateParts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
    gate_RHM, pass_RHM, turn_RHM = _gate(parts)
    dspectrum_RHNM = grad_RHNM * gate_RHM.conj()[:, :, None]
    dgate_RHM = grad_gate_RHM + (spectrum_RHNM.conj() * grad_RHNM).sum(2)
    rest_H1 = rest_H[:, None]
    amplitude_RHM = gain_RHM * pass_RHM
    along_RHM = dgate_RHM.conj() * turn_RHM
    dkeep_RHM = (1.0 - rest_H1) * amplitude_RHM * along_RHM.real + rest_H1 * dgate_RHM.real
    drest_H = (keep_RHM * (dgate_RHM.real - amplitude_RHM * along_RHM.real)).sum((0, 2))
    share_RHM = keep_RHM * (1.0 - rest_H1)
    dphase_RHM = -share_RHM * amplitude_RHM * along_RHM.imag
    damplitude_RHM = share_RHM * along_RHM.real
    # nothing flows through a closed threshold
    dpass_RHM = damplitude_RHM * gain_RHM * (pass_RHM > 0)
    dlimit_RH = -(dpass_RHM / magnitude_RHM).sum(-1)
    dmagnitude_RHM = dpass_RHM * limit_RH[..., None] / magnitude_RHM.square()
    dgain_RHM = damplitude_RHM * pass_RHM
    return (
        dspectrum_RHNM,
        dmagnitude_RHM,
        dgain_RHM,
        dphase_RHM,
        dlimit_RH,
        drest_H,
        dkeep_RHM,
    )
