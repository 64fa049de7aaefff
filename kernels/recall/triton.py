"""The chunk products of recall heads on a GPU.

Shape letters: X rows times heads, C time inside a chunk, K key channels, V value channels; BC, BK,
BV edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.recall.triton_local import recall_local, recall_local_backward
from kernels.triton_common import block_of, operand_type, product, tuned

__all__ = [
    "recall_local",
    "recall_local_backward",
    "recall_read",
    "recall_read_backward",
    "recall_state",
    "recall_state_backward",
]

MAX_CHANNELS = 128


@tuned(4, 8, key=["C", "K", "V"])
@triton.jit
def outer_kernel(
    k, v, weight, out, C, K, V,
    BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """Sum over t of weight_t k_t v_t^T."""
    x = tl.program_id(0).to(tl.int64)
    a, b = tl.arange(0, BK), tl.arange(0, BV)
    acc = tl.zeros((BK, BV), tl.float32)
    for begin in range(0, C, BC):
        t = begin + tl.arange(0, BC)
        w = tl.load(weight + x * C + t, mask=t < C, other=0.0).to(tl.float32)
        mask = (a[:, None] < K) & (t[None, :] < C)
        k_KC = tl.load(k + (x * C + t[None, :]) * K + a[:, None], mask=mask, other=0.0)
        mask = (t[:, None] < C) & (b[None, :] < V)
        v_CV = tl.load(v + (x * C + t[:, None]) * V + b[None, :], mask=mask, other=0.0)
        acc = product(k_KC.to(tl.float32) * w[None, :], v_CV.to(tl.float32), acc, DT)
    mask = (a[:, None] < K) & (b[None, :] < V)
    tl.store(out + (x * K + a[:, None]) * V + b[None, :], acc, mask=mask)


@tuned(4, 8, key=["C", "K", "V"])
@triton.jit
def inner_kernel(
    q, weight, state, extra, y, dweight, C, K, V,
    BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    TRANSPOSED: tl.constexpr, HAS_REST: tl.constexpr, DWEIGHT: tl.constexpr,
):  # fmt: skip
    """Product weight_t q_t^T S with S [K, V], or with S^T of S [V, K] if TRANSPOSED.

    `extra` [C, V] is added if HAS_REST; its product with y / weight is summed if DWEIGHT.
    """
    x, t = tl.program_id(0).to(tl.int64), tl.program_id(1) * BC + tl.arange(0, BC)
    a, b = tl.arange(0, BK), tl.arange(0, BV)
    mask = (t[:, None] < C) & (a[None, :] < K)
    q_CK = tl.load(q + (x * C + t[:, None]) * K + a[None, :], mask=mask, other=0.0)
    place = a[:, None] * V + b[None, :]
    if TRANSPOSED:
        place = b[None, :] * K + a[:, None]
    mask = (a[:, None] < K) & (b[None, :] < V)
    s_KV = tl.load(state + x * K * V + place, mask=mask, other=0.0).to(tl.float32)
    # states are float32, whatever the signal is
    acc = product(q_CK.to(tl.float32), s_KV, tl.zeros((BC, BV), tl.float32), tl.float32)
    place = (x * C + t[:, None]) * V + b[None, :]
    mask = (t[:, None] < C) & (b[None, :] < V)
    w = tl.load(weight + x * C + t, mask=t < C, other=0.0).to(tl.float32)
    if DWEIGHT:
        other = tl.load(extra + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(dweight + x * C + t, tl.sum(acc * other, axis=1), mask=t < C)
    acc *= w[:, None]
    if HAS_REST:
        acc += tl.load(extra + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, acc.to(y.dtype.element_ty), mask=mask)


def _outer(k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor) -> Tensor:
    N, H, C, K = k_NHCK.shape
    V = _served(k_NHCK, v_NHCV)
    out_NHKV = weight_NHC.new_empty(N, H, K, V)
    k_NHCK, v_NHCV = k_NHCK.contiguous(), v_NHCV.contiguous()
    outer_kernel[(N * H,)](
        k_NHCK, v_NHCV, weight_NHC.contiguous(), out_NHKV, C, K, V, block_of(C, 32),
        block_of(K, MAX_CHANNELS), block_of(V, MAX_CHANNELS), operand_type(k_NHCK),
    )  # fmt: skip
    return out_NHKV


def _inner(
    q_NHCK: Tensor,
    weight_NHC: Tensor,
    state: Tensor,
    extra_NHCV: Tensor,
    *,
    transposed: bool,
    has_rest: bool,
    wants_dweight: bool,
) -> tuple[Tensor, Tensor]:
    N, H, C, K = q_NHCK.shape
    V = _served(q_NHCK, extra_NHCV)
    q_NHCK, extra_NHCV = q_NHCK.contiguous(), extra_NHCV.contiguous()
    y_NHCV, dweight_NHC = torch.empty_like(extra_NHCV), torch.empty_like(weight_NHC.contiguous())
    BC = block_of(C, 64)
    inner_kernel[(N * H, triton.cdiv(C, BC))](
        q_NHCK, weight_NHC.contiguous(), state.contiguous(), extra_NHCV, y_NHCV, dweight_NHC,
        C, K, V, BC, block_of(K, MAX_CHANNELS), block_of(V, MAX_CHANNELS),
        transposed, has_rest, wants_dweight,
    )  # fmt: skip
    return y_NHCV, dweight_NHC


def _gradients(
    v_NHCV: Tensor, state_NHKV: Tensor, k_NHCK: Tensor, weight_NHC: Tensor
) -> tuple[Tensor, Tensor]:
    # gradients of Σ w_t k_tᵀ S v_t with respect to k and to w
    return _inner(
        v_NHCV, weight_NHC, state_NHKV, k_NHCK, transposed=True, has_rest=False, wants_dweight=True
    )


def recall_state(k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor) -> Tensor:
    """Kernel of `reference.recall_state`. Keys and values are read once."""
    return _outer(k_NHCK, v_NHCV, weight_NHC)


def recall_state_backward(
    grad_NHKV: Tensor, k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.recall_state_backward`."""
    dk_NHCK, dweight_NHC = _gradients(v_NHCV, grad_NHKV, k_NHCK, weight_NHC)
    dv_NHCV, _ = _inner(
        k_NHCK, weight_NHC, grad_NHKV, v_NHCV, transposed=False, has_rest=False, wants_dweight=False
    )
    return dk_NHCK, dv_NHCV, dweight_NHC


def recall_read(
    q_NHCK: Tensor, weight_NHC: Tensor, state_NHKV: Tensor, rest_NHCV: Tensor
) -> Tensor:
    """Kernel of `reference.recall_read`. All inputs are read once."""
    y_NHCV, _ = _inner(
        q_NHCK, weight_NHC, state_NHKV, rest_NHCV,
        transposed=False, has_rest=True, wants_dweight=False,
    )  # fmt: skip
    return y_NHCV


def recall_read_backward(
    grad_NHCV: Tensor, q_NHCK: Tensor, weight_NHC: Tensor, state_NHKV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.recall_read_backward`."""
    dq_NHCK, dweight_NHC = _gradients(grad_NHCV, state_NHKV, q_NHCK, weight_NHC)
    return dq_NHCK, dweight_NHC, _outer(q_NHCK, grad_NHCV, weight_NHC)


def _served(k_NHCK: Tensor, v_NHCV: Tensor) -> int:
    operand_type(k_NHCK)
    K, V = k_NHCK.shape[-1], v_NHCV.shape[-1]
    if max(K, V) > MAX_CHANNELS:
        raise NotServedError(f"expected heads of at most {MAX_CHANNELS} channels, got {K} and {V}")
    return V
