"""`spectral_energy` and `spectral_gate` as torch operators."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.spectral_gate.reference import GateParts
from kernels.spectral_gate.reference import spectral_energy as spectral_energy_reference
from kernels.spectral_gate.reference import (
    spectral_energy_backward as spectral_energy_backward_reference,
)
from kernels.spectral_gate.reference import spectral_gate as spectral_gate_reference
from kernels.spectral_gate.reference import (
    spectral_gate_backward as spectral_gate_backward_reference,
)


@torch.library.custom_op("resonance::spectral_energy", mutates_args=())
def _spectral_energy(spectrum: Tensor) -> Tensor:
    return run(spectral_energy_reference, spectrum)


@torch.library.custom_op("resonance::spectral_energy_backward", mutates_args=())
def _spectral_energy_backward(grad: Tensor, spectrum: Tensor) -> Tensor:
    return run(spectral_energy_backward_reference, grad, spectrum)


@torch.library.custom_op("resonance::spectral_gate", mutates_args=())
def _spectral_gate(
    spectrum: Tensor,
    magnitude: Tensor,
    gain: Tensor,
    phase: Tensor,
    limit: Tensor,
    rest: Tensor,
    keep: Tensor,
) -> tuple[Tensor, Tensor]:
    return run(spectral_gate_reference, spectrum, magnitude, gain, phase, limit, rest, keep)


@torch.library.custom_op("resonance::spectral_gate_backward", mutates_args=())
def _spectral_gate_backward(
    grad: Tensor,
    grad_gate: Tensor,
    spectrum: Tensor,
    magnitude: Tensor,
    gain: Tensor,
    phase: Tensor,
    limit: Tensor,
    rest: Tensor,
    keep: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    parts = (magnitude, gain, phase, limit, rest, keep)
    return run(spectral_gate_backward_reference, grad, grad_gate, spectrum, *parts)


@_spectral_energy.register_fake
def _(spectrum: Tensor) -> Tensor:
    R, H, _, M = spectrum.shape
    return spectrum.new_empty(R, H, M, dtype=spectrum.dtype.to_real())


@_spectral_energy_backward.register_fake
def _(grad: Tensor, spectrum: Tensor) -> Tensor:
    return spectrum.new_empty(spectrum.shape)


@_spectral_gate.register_fake
def _(spectrum: Tensor, magnitude: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    return spectrum.new_empty(spectrum.shape), spectrum.new_empty(magnitude.shape)


@_spectral_gate_backward.register_fake
def _(grad: Tensor, grad_gate: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(i.new_empty(i.shape) for i in inputs)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward_energy(ctx: Any, grad: Tensor) -> Tensor:
    return _spectral_energy_backward(grad, *ctx.saved_tensors)


def _backward_gate(ctx: Any, grad: Tensor, grad_gate: Tensor) -> tuple[Tensor, ...]:
    return _spectral_gate_backward(grad, grad_gate, *ctx.saved_tensors)


_spectral_energy.register_autograd(_backward_energy, setup_context=_save_inputs)
_spectral_gate.register_autograd(_backward_gate, setup_context=_save_inputs)


def spectral_energy(spectrum_RHNM: Tensor) -> Tensor:
    """Mean energy of every bin of a head [R, H, M]; see `reference.spectral_energy`.

    Raises:
        ValueError: The spectrum has not 4 axes or is not complex.
    """
    _check("spectral_energy", spectrum_RHNM)
    return _spectral_energy(spectrum_RHNM)


def spectral_gate(spectrum_RHNM: Tensor, parts: GateParts) -> tuple[Tensor, Tensor]:
    """The gated spectrum and its gate [R, H, M]; see `reference.spectral_gate`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("spectral_gate", spectrum_RHNM)
    R, H, _, M = spectrum_RHNM.shape
    shapes = {"limit_RH": (R, H), "rest_H": (H,)}
    for name, part in zip(GateParts._fields, parts, strict=True):
        expected = shapes.get(name, (R, H, M))
        if part.shape != expected or part.dtype != spectrum_RHNM.real.dtype:
            raise ValueError(
                f"spectral_gate: expected {name} {expected} of {spectrum_RHNM.real.dtype}, "
                f"got {tuple(part.shape)} of {part.dtype}"
            )
        check_tensors("spectral_gate", spectrum_RHNM, **{name: part})
    return _spectral_gate(spectrum_RHNM, *parts)


def _check(op: str, spectrum: Tensor) -> None:
    if spectrum.ndim != 4 or not spectrum.is_complex():
        raise ValueError(
            f"{op}: expected a complex spectrum [R, H, N, M], got {tuple(spectrum.shape)} of "
            f"{spectrum.dtype}"
        )
    check_tensors(op, spectrum, spectrum=spectrum)
