"""`norm_gate` on a GPU: inputs are read once and outputs written once.

Shape letters: R rows, D channels, H heads of K channels, G row groups; BR rows and BK channels of a
tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_common import operand_type, tuned

# elements of a tile, and tiles of a row group in the backward pass
TILE = 4096
TILES_PER_GROUP = 16


@tuned(4, 8, key=["R", "K"])
@triton.jit
def forward_kernel(x, gate, scale, y, inverse, R, H, K, eps, BR: tl.constexpr, BK: tl.constexpr):
    """Output x / rms(x) * scale * silu(gate) of one head's channels."""
    h, r, c = tl.program_id(1), tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BK)
    mask = (r[:, None] < R) & (c[None, :] < K)
    place = (r[:, None].to(tl.int64) * H + h) * K + c[None, :]
    X = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    G = tl.load(gate + place, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(scale + h * K + c, mask=c < K, other=0.0).to(tl.float32)
    inv = 1.0 / tl.sqrt(tl.sum(X * X, axis=1) / K + eps)
    Y = X * inv[:, None] * s[None, :] * G / (1.0 + tl.exp(-G))
    tl.store(y + place, Y.to(y.dtype.element_ty), mask=mask)
    tl.store(inverse + r.to(tl.int64) * H + h, inv, mask=r < R)


@tuned(4, 8, key=["R", "K"])
@triton.jit
def backward_kernel(
    grad, x, gate, scale, inverse, dx, dgate, dscale, R, H, K,
    BR: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """All gradients of one head's channels; dscale as one partial sum per row group."""
    group, h, c = tl.program_id(0), tl.program_id(1), tl.arange(0, BK)
    s = tl.load(scale + h * K + c, mask=c < K, other=0.0).to(tl.float32)
    acc = tl.zeros((BK,), tl.float32)
    for tile in range(TILES):
        r = (group * TILES + tile) * BR + tl.arange(0, BR)
        mask = (r[:, None] < R) & (c[None, :] < K)
        place = (r[:, None].to(tl.int64) * H + h) * K + c[None, :]
        dY = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        G = tl.load(gate + place, mask=mask, other=0.0).to(tl.float32)
        inv = tl.load(inverse + r.to(tl.int64) * H + h, mask=r < R, other=0.0)
        normal = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) * inv[:, None]
        sigmoid = 1.0 / (1.0 + tl.exp(-G))
        silu = G * sigmoid
        acc += tl.sum(dY * normal * silu, axis=0)
        dG = dY * normal * s[None, :] * (sigmoid + silu * (1.0 - sigmoid))
        tl.store(dgate + place, dG.to(dgate.dtype.element_ty), mask=mask)
        dnormal = dY * s[None, :] * silu
        radial = tl.sum(dnormal * normal, axis=1) / K
        dX = (dnormal - normal * radial[:, None]) * inv[:, None]
        tl.store(dx + place, dX.to(dx.dtype.element_ty), mask=mask)
    tl.store(dscale + (group * H + h) * K + c, acc, mask=c < K)


def norm_gate(
    x_RD: Tensor, gate_RD: Tensor, scale_D: Tensor, num_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Kernel of `reference.norm_gate`."""
    operand_type(x_RD)
    (R, D), K = x_RD.shape, x_RD.shape[1] // num_heads
    x_RD, gate_RD = x_RD.contiguous(), gate_RD.contiguous()
    y_RD, inverse_RH = torch.empty_like(gate_RD), x_RD.new_empty(R, num_heads, dtype=torch.float32)
    BR, BK = _tile(K)
    forward_kernel[(triton.cdiv(R, BR), num_heads)](
        x_RD, gate_RD, scale_D.contiguous(), y_RD, inverse_RH, R, num_heads, D // num_heads, eps,
        BR, BK,
    )  # fmt: skip
    return y_RD, inverse_RH


def norm_gate_backward(
    grad_RD: Tensor, x_RD: Tensor, gate_RD: Tensor, scale_D: Tensor, inverse_RH: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.norm_gate_backward`."""
    operand_type(x_RD)
    (R, D), H = x_RD.shape, inverse_RH.shape[1]
    x_RD, gate_RD, grad_RD = (i.contiguous() for i in (x_RD, gate_RD, grad_RD))
    dx_RD, dgate_RD = torch.empty_like(x_RD), torch.empty_like(gate_RD)
    BR, BK = _tile(D // H)
    groups = triton.cdiv(R, BR * TILES_PER_GROUP)
    dscale_GD = x_RD.new_empty(groups, D, dtype=torch.float32)
    backward_kernel[(groups, H)](
        grad_RD, x_RD, gate_RD, scale_D.contiguous(), inverse_RH, dx_RD, dgate_RD, dscale_GD,
        R, H, D // H, BR, BK, TILES_PER_GROUP,
    )  # fmt: skip
    return dx_RD, dgate_RD, dscale_GD.sum(0).to(scale_D.dtype)


def _tile(K: int) -> tuple[int, int]:
    BK = triton.next_power_of_2(K)
    return max(1, TILE // BK), BK
