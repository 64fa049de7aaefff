"""`spectral_energy`, `gate_values` and `gate_spectrum` as torch operators."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.spectral_gate.reference import GateParts
from kernels.spectral_gate.reference import gate_spectrum as gate_spectrum_reference
from kernels.spectral_gate.reference import (
    gate_spectrum_backward as gate_spectrum_backward_reference,
)
from kernels.spectral_gate.reference import gate_values as gate_values_reference
from kernels.spectral_gate.reference import gate_values_backward as gate_values_backward_reference
from kernels.spectral_gate.reference import spectral_energy as spectral_energy_reference
from kernels.spectral_gate.reference import (
    spectral_energy_backward as spectral_energy_backward_reference,
)


@torch.library.custom_op("resonance::spectral_energy", mutates_args=())
def _spectral_energy(spectrum: Tensor) -> Tensor:
    return run(spectral_energy_reference, spectrum)


@torch.library.custom_op("resonance::spectral_energy_backward", mutates_args=())
def _spectral_energy_backward(grad: Tensor, spectrum: Tensor) -> Tensor:
    return run(spectral_energy_backward_reference, grad, spectrum)


@torch.library.custom_op("resonance::gate_values", mutates_args=())
def _gate_values(
    magnitude: Tensor, gain: Tensor, phase: Tensor, limit: Tensor, rest: Tensor, keep: Tensor
) -> Tensor:
    return run(gate_values_reference, magnitude, gain, phase, limit, rest, keep)


@torch.library.custom_op("resonance::gate_values_backward", mutates_args=())
def _gate_values_backward(
    grad: Tensor,
    magnitude: Tensor,
    gain: Tensor,
    phase: Tensor,
    limit: Tensor,
    rest: Tensor,
    keep: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return run(gate_values_backward_reference, grad, magnitude, gain, phase, limit, rest, keep)


@torch.library.custom_op("resonance::gate_spectrum", mutates_args=())
def _gate_spectrum(spectrum: Tensor, gate: Tensor) -> Tensor:
    return run(gate_spectrum_reference, spectrum, gate)


@torch.library.custom_op("resonance::gate_spectrum_backward", mutates_args=())
def _gate_spectrum_backward(grad: Tensor, spectrum: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return run(gate_spectrum_backward_reference, grad, spectrum, gate)


@_spectral_energy.register_fake
def _(spectrum: Tensor) -> Tensor:
    R, H, _, M = spectrum.shape
    return spectrum.new_empty(R, H, M, dtype=spectrum.real.dtype)


@_gate_values.register_fake
def _(magnitude: Tensor, *parts: Tensor) -> Tensor:
    complex_ = torch.complex128 if magnitude.dtype == torch.float64 else torch.complex64
    return magnitude.new_empty(magnitude.shape, dtype=complex_)


@_gate_spectrum.register_fake
def _(spectrum: Tensor, gate: Tensor) -> Tensor:
    return spectrum.new_empty(spectrum.shape)


def _like_inputs(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(i.new_empty(i.shape) for i in inputs)


_gate_values_backward.register_fake(_like_inputs)
_gate_spectrum_backward.register_fake(_like_inputs)


@_spectral_energy_backward.register_fake
def _(grad: Tensor, spectrum: Tensor) -> Tensor:
    return spectrum.new_empty(spectrum.shape)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward_energy(ctx: Any, grad: Tensor) -> Tensor:
    return _spectral_energy_backward(grad, *ctx.saved_tensors)


def _backward_values(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return _gate_values_backward(grad, *ctx.saved_tensors)


def _backward_spectrum(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return _gate_spectrum_backward(grad, *ctx.saved_tensors)


_spectral_energy.register_autograd(_backward_energy, setup_context=_save_inputs)
_gate_values.register_autograd(_backward_values, setup_context=_save_inputs)
_gate_spectrum.register_autograd(_backward_spectrum, setup_context=_save_inputs)


def spectral_energy(spectrum_RHNM: Tensor) -> Tensor:
    """Mean energy of every bin of a head [R, H, M]; see `reference.spectral_energy`.

    Raises:
        ValueError: The spectrum has not 4 axes or is not complex.
    """
    _check("spectral_energy", spectrum_RHNM)
    return _spectral_energy(spectrum_RHNM)


def gate_values(parts: GateParts) -> Tensor:
    """Complex gate [R, H, M] made from its parts; see `reference.gate_values`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    like = parts.magnitude_RHM
    if like.ndim != 3 or like.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "gate_values: expected magnitudes [R, H, M] of torch.float32 or torch.float64, got "
            f"{tuple(like.shape)} of {like.dtype}"
        )
    R, H, _ = like.shape
    shapes = {"limit_RH": (R, H), "rest_H": (H,)}
    for name, part in zip(GateParts._fields, parts, strict=True):
        expected = shapes.get(name, tuple(like.shape))
        if part.shape != expected or part.dtype != like.dtype:
            raise ValueError(
                f"gate_values: expected {name} {expected} of {like.dtype}, got "
                f"{tuple(part.shape)} of {part.dtype}"
            )
        check_tensors("gate_values", like, **{name: part})
    return _gate_values(*parts)


def gate_spectrum(spectrum_RHNM: Tensor, gate_RHM: Tensor) -> Tensor:
    """The spectrum times its gate; see `reference.gate_spectrum`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("gate_spectrum", spectrum_RHNM)
    R, H, _, M = spectrum_RHNM.shape
    if gate_RHM.shape != (R, H, M) or gate_RHM.dtype != spectrum_RHNM.dtype:
        raise ValueError(
            f"gate_spectrum: expected a gate {(R, H, M)} of {spectrum_RHNM.dtype}, got "
            f"{tuple(gate_RHM.shape)} of {gate_RHM.dtype}"
        )
    check_tensors("gate_spectrum", spectrum_RHNM, gate=gate_RHM)
    return _gate_spectrum(spectrum_RHNM, gate_RHM)


def _check(op: str, spectrum: Tensor) -> None:
    if spectrum.ndim != 4 or not spectrum.is_complex():
        raise ValueError(
            f"{op}: expected a complex spectrum [R, H, N, M], got {tuple(spectrum.shape)} of "
            f"{spectrum.dtype}"
        )
    check_tensors(op, spectrum, spectrum=spectrum)
