"""Causal convolution of long chunks as products with small DFT matrices (Monarch), in one launch.

With the right-angle weight w[n] = e^(iπn/2L) a causal convolution of L reals is one complex
transform of L points: no padding to 2L. The transform of L = N1 * N2 points is two products with
DFT matrices and a twiddle between them, so tensor cores do it and the signal is read once and
written once. Shorter chunks are padded with zeros inside the kernel.

Half precision is multiplied in float16 (bfloat16 would miss 4e-3 relative error) and accumulated in
float32; every row is scaled by its peak and every filter by its spectrum's, so nothing overflows
whatever the range of the data: |operand| <= sqrt(N2) L / 4 <= 16,384.

Shape letters: D channel, N rows, C time inside a chunk, L = N1 * N2 >= C points, G row groups.

Source: Fu et al. 2023, FlashFFTConv (arXiv 2311.05908), with a right-angle weight in place of
padding.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import cmul, operand, operand_type, product

MAX_CHUNK = 8192
# limited by registers, and by the smaller shared memory of AMD's GPUs
MAX_CHUNK_FLOAT32 = 1024 if torch.version.hip else 2048
# rows per program: the tables stay in registers or the cache for all of them
ROWS = 8


@triton.jit
def _scaled(x):
    """A tile with a peak of 1/4, and the divisor that made it so."""
    peak = 4.0 * tl.max(tl.max(tl.abs(x), axis=1), axis=0)
    peak = tl.where(peak > 0.0, peak, 1.0)
    return x / peak, peak


@triton.jit
def _matrix(re, im, N: tl.constexpr, DT: tl.constexpr):
    """A DFT matrix [N, N] as operands: (re, im)."""
    place = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    return operand(tl.load(re + place), DT), operand(tl.load(im + place), DT)


@triton.jit
def _setup(f1r, f1i, f2r, f2i, N1: tl.constexpr, N2: tl.constexpr, DT: tl.constexpr):
    """Offsets of a tile's elements, and both DFT matrices as operands."""
    i12 = tl.arange(0, N1)[:, None] * N2 + tl.arange(0, N2)[None, :]
    F1r, F1i = _matrix(f1r, f1i, N1, DT)
    F2r, F2i = _matrix(f2r, f2i, N2, DT)
    return i12, F1r, F1i, F2r, F2i


@triton.jit
def _row(n, d, i12, N, C):
    """Offset of row n of channel d, and the elements of its tile that exist."""
    return (d.to(tl.int64) * N + n) * C, i12 < tl.where(n < N, C, 0)


@triton.jit
def _transform(x, f1r, f1i, f2r, f2i, tr, ti, DT: tl.constexpr):
    """The weighted spectrum of a real tile [N1, N2]."""
    zero = tl.zeros_like(x)
    ar, ai = product(f1r, x, zero, DT), product(f1i, x, zero, DT)
    br, bi = cmul(ar, ai, tr, ti)
    cr = product(-bi, f2i, product(br, f2r, zero, DT), DT)
    ci = product(bi, f2r, product(br, f2i, zero, DT), DT)
    return cr, ci


@triton.jit
def monarch_kernel(
    x, f1r, f1i, f2r, f2i, tr, ti, kr, ki, ks, y, N, C,
    N1: tl.constexpr, N2: tl.constexpr, NB: tl.constexpr, DT: tl.constexpr, EVEN: tl.constexpr,
    CONJ: tl.constexpr,
):  # fmt: skip
    """Write y, x convolved with the filter whose spectrum is k; correlated with it if CONJ."""
    # a channel's row groups follow each other: its spectrum stays in the second-level cache
    group, d = tl.program_id(0), tl.program_id(1)
    if EVEN:
        C = N1 * N2
    i12, F1r, F1i, F2r, F2i = _setup(f1r, f1i, f2r, f2i, N1, N2, DT)
    zero = tl.zeros((N1, N2), tl.float32)
    for j in range(NB):
        base, mask = _row(group * NB + j, d, i12, N, C)
        X, peak = _scaled(tl.load(x + base + i12, mask=mask, other=0.0).to(tl.float32))
        # twiddles and spectrum are read from the cache each time: registers are scarcer
        Tr, Ti = tl.load(tr + i12), tl.load(ti + i12)
        Ur, Ui = _transform(X, F1r, F1i, F2r, F2i, Tr, Ti, DT)
        Kr, Ki = tl.load(kr + d * N1 * N2 + i12), tl.load(ki + d * N1 * N2 + i12)
        if CONJ:
            Ki = -Ki
        Vr, Vi = cmul(Ur, Ui, Kr, Ki)
        Er = product(Vi, F2i, product(Vr, F2r, zero, DT), DT)
        Ei = product(-Vr, F2i, product(Vi, F2r, zero, DT), DT)
        Gr, Gi = cmul(Er, Ei, tl.load(tr + i12), -tl.load(ti + i12))
        Y = product(tl.trans(F1i), Gi, product(tl.trans(F1r), Gr, zero, DT), DT)
        Y *= peak * tl.load(ks + d)
        tl.store(y + base + i12, Y.to(y.dtype.element_ty), mask=mask)


@triton.jit
def monarch_filter_kernel(
    x, g, f1r, f1i, f2r, f2i, tr, ti, dkr, dki, D, N, C,
    N1: tl.constexpr, N2: tl.constexpr, NB: tl.constexpr, DT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradient of the filter's spectrum: the sum over rows of conj(spectrum of x) spectrum of g."""
    group, d = tl.program_id(0), tl.program_id(1)
    if EVEN:
        C = N1 * N2
    i12, F1r, F1i, F2r, F2i = _setup(f1r, f1i, f2r, f2i, N1, N2, DT)
    sum_re = tl.zeros((N1, N2), tl.float32)
    sum_im = tl.zeros((N1, N2), tl.float32)
    for j in range(NB):
        base, mask = _row(group * NB + j, d, i12, N, C)
        X, peak_x = _scaled(tl.load(x + base + i12, mask=mask, other=0.0).to(tl.float32))
        Ur, Ui = _transform(X, F1r, F1i, F2r, F2i, tl.load(tr + i12), tl.load(ti + i12), DT)
        X, peak_g = _scaled(tl.load(g + base + i12, mask=mask, other=0.0).to(tl.float32))
        Vr, Vi = _transform(X, F1r, F1i, F2r, F2i, tl.load(tr + i12), tl.load(ti + i12), DT)
        sum_re += (Ur * Vr + Ui * Vi) * (peak_x * peak_g)
        sum_im += (Ur * Vi - Ui * Vr) * (peak_x * peak_g)
    # a separate partial sum for every group: deterministic, no atomics
    out = (group.to(tl.int64) * D + d) * N1 * N2 + i12
    tl.store(dkr + out, sum_re)
    tl.store(dki + out, sum_im)


def factors(C: int) -> tuple[int, int]:
    """(N1, N2), powers of two with the larger one first, whose product is the first >= C."""
    bits = max(10, (C - 1).bit_length())
    return 1 << (bits + 1) // 2, 1 << bits // 2


@functools.cache
def tables(N1: int, N2: int, device: torch.device) -> tuple[Tensor, ...]:
    """(F1 re, im; F2 re, im; twiddle re, im) with the right-angle weight folded in, float32."""
    L = N1 * N2
    n1 = torch.arange(N1, dtype=torch.float64, device=device)
    n2 = torch.arange(N2, dtype=torch.float64, device=device)
    f1 = _unit_phase(-2.0 * math.pi * (torch.outer(n1, n1) % N1) / N1 + math.pi * N2 * n1 / (2 * L))
    twiddle = _unit_phase(-2.0 * math.pi * torch.outer(n1, n2) / L + math.pi * n2 / (2 * L))
    f2 = _unit_phase(-2.0 * math.pi * (torch.outer(n2, n2) % N2) / N2)
    parts = (part for table in (f1, f2, twiddle) for part in (table.real, table.imag))
    return tuple(part.float().contiguous() for part in parts)


def _unit_phase(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


@functools.cache
def _weight(L: int, device: torch.device) -> Tensor:
    angle = math.pi * torch.arange(L, dtype=torch.float64, device=device) / (2 * L)
    return _unit_phase(angle).to(torch.complex64)


def spectrum(h_DC: Tensor, N1: int, N2: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted spectrum of filters in the kernels' order [D, N1, N2]: (re, im, peak [D]).

    The spectrum is divided by its peak; the peak includes the inverse transform's factor 1 / L.
    """
    L = N1 * N2
    padded_DL = torch.nn.functional.pad(h_DC.float(), (0, L - h_DC.shape[-1]))
    k_DL = torch.fft.fft(padded_DL * _weight(L, h_DC.device))
    peak_D = k_DL.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    k_D12 = (k_DL / peak_D[:, None]).view(-1, N2, N1).mT
    return k_D12.real.contiguous(), k_D12.imag.contiguous(), peak_D / L


def _operands(u_DNC: Tensor) -> Any:
    """Type of the products' operands: float32 for float32, float16 for both half types.

    Raises:
        NotServedError: The tile would not fit into registers.
    """
    if operand_type(u_DNC) != tl.float32:
        return tl.float16
    C = u_DNC.shape[-1]
    if C > MAX_CHUNK_FLOAT32:
        raise NotServedError(
            f"expected a chunk of at most {MAX_CHUNK_FLOAT32} float32 tokens, got {C}: a larger "
            "tile does not fit into registers"
        )
    return tl.float32


def _num_warps(u_DNC: Tensor) -> int:
    # eight where a tile would fill the registers of four
    return 4 if u_DNC.shape[-1] * u_DNC.element_size() <= 8192 else 8


def convolve(u_DNC: Tensor, h_DC: Tensor, *, conj: bool) -> Tensor:
    """Rows convolved, or correlated, with their channel's filter, by `monarch_kernel`."""
    D, N, C = u_DNC.shape
    N1, N2 = factors(C)
    u_DNC, y_DNC = (
        u_DNC.contiguous(),
        torch.empty_like(u_DNC, memory_format=torch.contiguous_format),
    )
    monarch_kernel[(triton.cdiv(N, ROWS), D)](
        u_DNC, *tables(N1, N2, u_DNC.device), *spectrum(h_DC, N1, N2), y_DNC, N, C,
        N1, N2, ROWS, _operands(u_DNC), N1 * N2 == C, conj,
        num_warps=_num_warps(u_DNC), num_stages=1,
    )  # fmt: skip
    return y_DNC


def filter_gradient(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Gradient dh_DC of the filters, by `monarch_filter_kernel` and an inverse transform."""
    D, N, C = u_DNC.shape
    N1, N2 = factors(C)
    L, groups = N1 * N2, triton.cdiv(N, ROWS)
    dk_2GD12 = u_DNC.new_empty(2, groups, D, N1, N2, dtype=torch.float32)
    monarch_filter_kernel[(groups, D)](
        u_DNC.contiguous(), grad_DNC.contiguous(), *tables(N1, N2, u_DNC.device), *dk_2GD12, D, N,
        C, N1, N2, ROWS, _operands(u_DNC), N1 * N2 == C, num_warps=8, num_stages=1,
    )  # fmt: skip
    dk_DL = torch.complex(*dk_2GD12.sum(1)).mT.reshape(D, L) / L
    dh_DL = torch.fft.ifft(dk_DL, norm="forward") * _weight(L, h_DC.device).conj()
    return dh_DL.real[:, :C].to(h_DC.dtype).contiguous()
