"""FLOPs, launches and gradcheck cases of the spectral gates."""

import torch

from kernels.op_info import (
    GradcheckCase,
    LaunchCase,
    OpInfo,
    complex_randn,
    elementwise,
    randn,
)
from kernels.spectral_gate.op import gate_spectrum, gate_values, spectral_energy
from kernels.spectral_gate.reference import GateParts


def _launches(_dtype: torch.dtype) -> list[LaunchCase]:
    """Launches on spectra, which are complex64 whatever the dtype of signals."""
    from kernels.spectral_gate import triton

    spectrum = torch.zeros(4, 8, 64, 16, dtype=torch.complex64)
    gate, real = torch.zeros(4, 8, 16, dtype=torch.complex64), torch.zeros(4, 8, 16)
    parts = (real, real, real, torch.zeros(4, 8), torch.zeros(8), real)
    return [
        LaunchCase(triton.spectral_energy, (spectrum,)),
        LaunchCase(triton.spectral_energy_backward, (real, spectrum)),
        LaunchCase(triton.gate_spectrum, (spectrum, gate)),
        LaunchCase(triton.gate_spectrum_backward, (spectrum, spectrum, gate)),
        LaunchCase(triton.gate_values, parts),
        LaunchCase(triton.gate_values_backward, (gate, *parts)),
    ]


def _gradcheck_energy() -> GradcheckCase:
    inputs = (complex_randn(2, 3, 4, 5),)
    return GradcheckCase("spectral_energy", spectral_energy, inputs, inputs)


def _gradcheck_values() -> GradcheckCase:
    R, H, M = 2, 3, 5
    inputs = (
        (torch.rand(R, H, M, dtype=torch.float64) + 0.3).requires_grad_(),
        randn(R, H, M),
        randn(R, H, M),
        torch.rand(R, H, dtype=torch.float64).requires_grad_(),
        torch.rand(H, dtype=torch.float64).requires_grad_(),
        randn(R, H, M),
    )
    return GradcheckCase(
        "gate_values", lambda *parts: gate_values(GateParts(*parts)), inputs, inputs
    )


def _gradcheck_spectrum() -> GradcheckCase:
    inputs = (complex_randn(2, 3, 4, 5), complex_randn(2, 3, 5))
    return GradcheckCase("gate_spectrum", gate_spectrum, inputs, inputs)


INFO = OpInfo(
    flops={
        "spectral_energy": elementwise,
        "spectral_energy_backward": elementwise,
        "gate_values": elementwise,
        "gate_values_backward": elementwise,
        "gate_spectrum": elementwise,
        "gate_spectrum_backward": elementwise,
    },
    launches=_launches,
    gradchecks={
        "spectral_energy": _gradcheck_energy,
        "gate_values": _gradcheck_values,
        "gate_spectrum": _gradcheck_spectrum,
    },
)
