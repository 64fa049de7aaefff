"""`recall_inputs` on a GPU: every projection is read once and every vector written once.

Shape letters: B batch, T time (tokens), R channels of all heads, J chunk, N = B J rows, H head, C
time inside a chunk, K channels of a head, F = K / 2 pairs; BT tokens and BF pairs of a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.recall_qkv.reference import SHORTEST
from kernels.triton_common import operand_type, tuned

# elements of a tile
TILE = 4096


@triton.jit
def silu_slope(x):
    """Values of silu(x) and of its derivative."""
    sigmoid = 1.0 / (1.0 + tl.exp(-x))
    silu = x * sigmoid
    return silu, sigmoid + silu * (1.0 - sigmoid)


@tuned(4, 8, key=["T", "F"])
@triton.jit
def forward_kernel(
    x, cos, sin, y, inverse, T, J, H, C, F, row_stride, batch_stride, shortest,
    BT: tl.constexpr, BF: tl.constexpr, ROTATES: tl.constexpr,
):  # fmt: skip
    """Silu of one head's channels; scaled to unit length and rotated if ROTATES."""
    h, b, f = tl.program_id(1), tl.program_id(2), tl.arange(0, BF)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    mask = (t[:, None] < T) & (f[None, :] < F)
    place = b.to(tl.int64) * batch_stride + t[:, None].to(tl.int64) * row_stride
    place += h * 2 * F + f[None, :]
    first, _ = silu_slope(tl.load(x + place, mask=mask, other=0.0).to(tl.float32))
    second, _ = silu_slope(tl.load(x + place + F, mask=mask, other=0.0).to(tl.float32))
    row = ((b.to(tl.int64) * J + t // C) * H + h) * C + t % C
    # time past the end is written as zeros
    inside = t < J * C
    if ROTATES:
        length = tl.sqrt(tl.sum(first * first + second * second, axis=1))
        inv = 1.0 / tl.maximum(length, shortest)
        tl.store(inverse + row, inv, mask=inside)
        angle = t[:, None] * F + f[None, :]
        c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32) * inv[:, None]
        s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32) * inv[:, None]
        first, second = first * c - second * s, first * s + second * c
    place = row[:, None] * 2 * F + f[None, :]
    mask = inside[:, None] & (f[None, :] < F)
    tl.store(y + place, first.to(y.dtype.element_ty), mask=mask)
    tl.store(y + place + F, second.to(y.dtype.element_ty), mask=mask)


@tuned(4, 8, key=["T", "F"])
@triton.jit
def backward_kernel(
    grad, x, cos, sin, y, inverse, dx, T, J, H, C, F, row_stride, batch_stride,
    BT: tl.constexpr, BF: tl.constexpr, ROTATES: tl.constexpr,
):  # fmt: skip
    """Gradient of `forward_kernel`."""
    h, b, f = tl.program_id(1), tl.program_id(2), tl.arange(0, BF)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    mask = (t[:, None] < T) & (f[None, :] < F)
    row = ((b.to(tl.int64) * J + t // C) * H + h) * C + t % C
    place = row[:, None] * 2 * F + f[None, :]
    first = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(grad + place + F, mask=mask, other=0.0).to(tl.float32)
    if ROTATES:
        y_first = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
        y_second = tl.load(y + place + F, mask=mask, other=0.0).to(tl.float32)
        inv = tl.load(inverse + row, mask=t < T, other=0.0)[:, None]
        radial = tl.sum(first * y_first + second * y_second, axis=1)[:, None]
        first, second = (first - y_first * radial) * inv, (second - y_second * radial) * inv
        angle = t[:, None] * F + f[None, :]
        c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
        first, second = first * c + second * s, second * c - first * s
    place = b.to(tl.int64) * batch_stride + t[:, None].to(tl.int64) * row_stride
    place += h * 2 * F + f[None, :]
    out = (b.to(tl.int64) * T + t[:, None]) * 3 * H * 2 * F + h * 2 * F + f[None, :]
    _, slope = silu_slope(tl.load(x + place, mask=mask, other=0.0).to(tl.float32))
    tl.store(dx + out, (first * slope).to(dx.dtype.element_ty), mask=mask)
    _, slope = silu_slope(tl.load(x + place + F, mask=mask, other=0.0).to(tl.float32))
    tl.store(dx + out + F, (second * slope).to(dx.dtype.element_ty), mask=mask)


def recall_inputs(
    qkv_BT3R: Tensor, cos_TF: Tensor, sin_TF: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernel of `reference.recall_inputs`."""
    operand_type(qkv_BT3R)
    (B, T, _, R), H, C = qkv_BT3R.shape, num_heads, chunk
    J, F = triton.cdiv(T, C), R // H // 2
    BT, BF = _tile(F)
    cos_TF, sin_TF = cos_TF.contiguous(), sin_TF.contiguous()
    vectors, inverses = [], []
    for x_BTR, rotates in zip(_parts(qkv_BT3R), (True, True, False), strict=True):
        vectors.append(x_BTR.new_empty(B * J, H, C, 2 * F))
        inverses.append(x_BTR.new_empty(B * J, H, C, dtype=torch.float32))
        forward_kernel[(triton.cdiv(J * C, BT), H, B)](
            x_BTR, cos_TF, sin_TF, vectors[-1], inverses[-1], T, J, H, C, F, x_BTR.stride(1),
            x_BTR.stride(0), SHORTEST, BT, BF, rotates,
        )  # fmt: skip
    return vectors[0], vectors[1], vectors[2], inverses[0], inverses[1]


def recall_inputs_backward(
    dq_NHCK: Tensor,
    dk_NHCK: Tensor,
    dv_NHCK: Tensor,
    qkv_BT3R: Tensor,
    cos_TF: Tensor,
    sin_TF: Tensor,
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    q_inverse_NHC: Tensor,
    k_inverse_NHC: Tensor,
) -> Tensor:
    """Kernels of `reference.recall_inputs_backward`."""
    operand_type(qkv_BT3R)
    (B, T, _, R), (N, H, C, _) = qkv_BT3R.shape, q_NHCK.shape
    F = R // H // 2
    BT, BF = _tile(F)
    cos_TF, sin_TF = cos_TF.contiguous(), sin_TF.contiguous()
    dqkv_BT3R = torch.empty_like(qkv_BT3R, memory_format=torch.contiguous_format)
    outputs = ((q_NHCK, q_inverse_NHC), (k_NHCK, k_inverse_NHC), (None, None))
    for grad_NHCK, x_BTR, dx_BTR, (y_NHCK, inverse_NHC) in zip(
        (dq_NHCK, dk_NHCK, dv_NHCK), _parts(qkv_BT3R), dqkv_BT3R.unbind(2), outputs, strict=True
    ):
        rotates = y_NHCK is not None and inverse_NHC is not None
        backward_kernel[(triton.cdiv(T, BT), H, B)](
            grad_NHCK.contiguous(), x_BTR, cos_TF, sin_TF,
            y_NHCK.contiguous() if y_NHCK is not None else cos_TF,
            inverse_NHC.contiguous() if inverse_NHC is not None else cos_TF,
            dx_BTR, T, N // B, H, C, F, x_BTR.stride(1), x_BTR.stride(0), BT, BF, rotates,
        )  # fmt: skip
    return dqkv_BT3R


def _parts(qkv_BT3R: Tensor) -> tuple[Tensor, ...]:
    # tokens may have any stride, channels must be contiguous
    return (qkv_BT3R if qkv_BT3R.stride(3) == 1 else qkv_BT3R.contiguous()).unbind(2)


def _tile(F: int) -> tuple[int, int]:
    BF = triton.next_power_of_2(F)
    return max(1, TILE // (2 * BF)), BF
