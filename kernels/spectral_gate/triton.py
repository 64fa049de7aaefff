"""Spectral gates on a GPU: the spectrum is read once for its energy, and once to be gated.

Shape letters: X rows times heads, H head, N channels of a head, M bins; BN and BM edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import load_complex, pairs, served_complex, store_complex, tuned

CHANNELS, BINS = 32, 64


@tuned(4, 2, key=["N", "M"])
@triton.jit
def energy_kernel(spectrum, energy, N, M, BN: tl.constexpr, BM: tl.constexpr):
    """Mean over the channels of |spectrum|^2."""
    x, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    acc = tl.zeros((BM,), tl.float32)
    for begin in range(0, N, BN):
        n = begin + tl.arange(0, BN)
        mask = (n[:, None] < N) & (m[None, :] < M)
        re, im = load_complex(spectrum, (x * N + n[:, None]) * M + m[None, :], mask)
        acc += tl.sum(re * re + im * im, axis=0)
    tl.store(energy + x * M + m, acc / N, mask=m < M)


@tuned(4, 2, key=["N", "M"])
@triton.jit
def scale_kernel(
    spectrum, factor, out, N, M, BN: tl.constexpr, BM: tl.constexpr, COMPLEX: tl.constexpr
):
    """The spectrum times one factor per head and bin, real (times 2 / N) or complex."""
    x, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(2) * BN + tl.arange(0, BN)
    mask = (n[:, None] < N) & (m[None, :] < M)
    place = (x * N + n[:, None]) * M + m[None, :]
    re, im = load_complex(spectrum, place, mask)
    if COMPLEX:
        f_re, f_im = load_complex(factor, x * M + m, m < M)
        out_re = re * f_re[None, :] - im * f_im[None, :]
        out_im = re * f_im[None, :] + im * f_re[None, :]
    else:
        f = tl.load(factor + x * M + m, mask=m < M, other=0.0) * (2.0 / N)
        out_re, out_im = re * f[None, :], im * f[None, :]
    store_complex(out, place, out_re, out_im, mask)


@tuned(4, 2, key=["N", "M"])
@triton.jit
def gate_backward_kernel(
    grad, spectrum, gate, dspectrum, dgate, N, M, BN: tl.constexpr, BM: tl.constexpr
):
    """Gradients grad conj(gate), and the sum over channels of conj(spectrum) grad."""
    x, m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BM + tl.arange(0, BM)
    f_re, f_im = load_complex(gate, x * M + m, m < M)
    acc_re = tl.zeros((BM,), tl.float32)
    acc_im = tl.zeros((BM,), tl.float32)
    for begin in range(0, N, BN):
        n = begin + tl.arange(0, BN)
        mask = (n[:, None] < N) & (m[None, :] < M)
        place = (x * N + n[:, None]) * M + m[None, :]
        re, im = load_complex(spectrum, place, mask)
        g_re, g_im = load_complex(grad, place, mask)
        acc_re += tl.sum(re * g_re + im * g_im, axis=0)
        acc_im += tl.sum(re * g_im - im * g_re, axis=0)
        d_re = g_re * f_re[None, :] + g_im * f_im[None, :]
        d_im = g_im * f_re[None, :] - g_re * f_im[None, :]
        store_complex(dspectrum, place, d_re, d_im, mask)
    store_complex(dgate, x * M + m, acc_re, acc_im, m < M)


@tuned(4, 2, key=["M"])
@triton.jit
def values_kernel(magnitude, gain, phase, limit, rest, keep, gate, H, M, BM: tl.constexpr):
    """Gate keep ((1 - rest) gain relu(1 - limit / magnitude) e^(i phase) + rest)."""
    x, m = tl.program_id(0).to(tl.int64), tl.arange(0, BM)
    mask, place = m < M, x * M + m
    tau, rho = tl.load(limit + x), tl.load(rest + x % H)
    size = tl.load(magnitude + place, mask=mask, other=1.0)
    k = tl.load(keep + place, mask=mask, other=0.0)
    a = tl.load(gain + place, mask=mask, other=0.0) * tl.maximum(1.0 - tau / size, 0.0)
    a *= 1.0 - rho
    angle = tl.load(phase + place, mask=mask, other=0.0)
    store_complex(gate, place, k * (a * tl.cos(angle) + rho), k * a * tl.sin(angle), mask)


@tuned(4, 2, key=["M"])
@triton.jit
def values_backward_kernel(
    grad, magnitude, gain, phase, limit, rest, keep,
    dmagnitude, dgain, dphase, dlimit, drest, dkeep, H, M, BM: tl.constexpr,
):  # fmt: skip
    """Gradients of all parts; that of rest as one partial sum per row and head."""
    x, m = tl.program_id(0).to(tl.int64), tl.arange(0, BM)
    mask, place = m < M, x * M + m
    tau, rho = tl.load(limit + x), tl.load(rest + x % H)
    size = tl.load(magnitude + place, mask=mask, other=1.0)
    k = tl.load(keep + place, mask=mask, other=0.0)
    gained = tl.load(gain + place, mask=mask, other=0.0)
    through = tl.maximum(1.0 - tau / size, 0.0)
    a = gained * through
    angle = tl.load(phase + place, mask=mask, other=0.0)
    g_re, g_im = load_complex(grad, place, mask)
    cos, sin = tl.cos(angle), tl.sin(angle)
    # conj(grad) e^(i phase)
    along, across = g_re * cos + g_im * sin, g_re * sin - g_im * cos
    share = k * (1.0 - rho)
    tl.store(dkeep + place, (1.0 - rho) * a * along + rho * g_re, mask=mask)
    tl.store(drest + x, tl.sum(k * (g_re - a * along), axis=0))
    tl.store(dphase + place, -share * a * across, mask=mask)
    tl.store(dgain + place, share * along * through, mask=mask)
    dthrough = tl.where(through > 0.0, share * along * gained, 0.0)
    tl.store(dlimit + x, -tl.sum(dthrough / size, axis=0))
    tl.store(dmagnitude + place, dthrough * tau / (size * size), mask=mask)


def spectral_energy(spectrum_RHNM: Tensor) -> Tensor:
    """Kernel of `reference.spectral_energy`."""
    served_complex(spectrum_RHNM)
    R, H, N, M = spectrum_RHNM.shape
    energy_RHM = spectrum_RHNM.new_empty(R, H, M, dtype=torch.float32)
    energy_kernel[(R * H, triton.cdiv(M, BINS))](
        pairs(spectrum_RHNM), energy_RHM, N, M, CHANNELS, BINS
    )
    return energy_RHM


def spectral_energy_backward(grad_RHM: Tensor, spectrum_RHNM: Tensor) -> Tensor:
    """Kernels of `reference.spectral_energy_backward`."""
    return _scaled(spectrum_RHNM, grad_RHM.contiguous(), complex_=False)


def gate_spectrum(spectrum_RHNM: Tensor, gate_RHM: Tensor) -> Tensor:
    """Kernel of `reference.gate_spectrum`."""
    return _scaled(spectrum_RHNM, pairs(gate_RHM), complex_=True)


def _scaled(spectrum_RHNM: Tensor, factor: Tensor, *, complex_: bool) -> Tensor:
    served_complex(spectrum_RHNM)
    R, H, N, M = spectrum_RHNM.shape
    out_RHNM = torch.empty_like(spectrum_RHNM, memory_format=torch.contiguous_format)
    scale_kernel[(R * H, triton.cdiv(M, BINS), triton.cdiv(N, CHANNELS))](
        pairs(spectrum_RHNM), factor, torch.view_as_real(out_RHNM), N, M, CHANNELS, BINS, complex_
    )
    return out_RHNM


def gate_spectrum_backward(
    grad_RHNM: Tensor, spectrum_RHNM: Tensor, gate_RHM: Tensor
) -> tuple[Tensor, Tensor]:
    """Kernels of `reference.gate_spectrum_backward`."""
    served_complex(spectrum_RHNM)
    R, H, N, M = spectrum_RHNM.shape
    dspectrum, dgate = (
        torch.empty_like(i, memory_format=torch.contiguous_format)
        for i in (spectrum_RHNM, gate_RHM)
    )
    gate_backward_kernel[(R * H, triton.cdiv(M, BINS))](
        pairs(grad_RHNM), pairs(spectrum_RHNM), pairs(gate_RHM), torch.view_as_real(dspectrum),
        torch.view_as_real(dgate), N, M, CHANNELS, BINS,
    )  # fmt: skip
    return dspectrum, dgate


def gate_values(
    magnitude_RHM: Tensor,
    gain_RHM: Tensor,
    phase_RHM: Tensor,
    limit_RH: Tensor,
    rest_H: Tensor,
    keep_RHM: Tensor,
) -> Tensor:
    """Kernel of `reference.gate_values`."""
    parts = _parts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
    R, H, M = magnitude_RHM.shape
    gate_RHM = magnitude_RHM.new_empty(R, H, M, dtype=torch.complex64)
    values_kernel[(R * H,)](*parts, torch.view_as_real(gate_RHM), H, M, triton.next_power_of_2(M))
    return gate_RHM


def gate_values_backward(grad_RHM: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Kernels of `reference.gate_values_backward`."""
    parts = _parts(*values)
    R, H, M = parts[0].shape
    dmagnitude, dgain, dphase, dlimit, _, dkeep = (torch.empty_like(i) for i in parts)
    drest_RH = torch.empty_like(dlimit)
    values_backward_kernel[(R * H,)](
        pairs(grad_RHM), *parts, dmagnitude, dgain, dphase, dlimit, drest_RH, dkeep, H, M,
        triton.next_power_of_2(M),
    )  # fmt: skip
    return dmagnitude, dgain, dphase, dlimit, drest_RH.sum(0), dkeep


def _parts(*values: Tensor) -> list[Tensor]:
    if values[0].dtype != torch.float32:
        raise NotServedError(f"there are no kernels for {values[0].dtype}")
    return [value.contiguous() for value in values]
