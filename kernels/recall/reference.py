"""Products inside the chunks of recall heads: state written, state read, and local attention.

    S = Σ_t w_t k_t v_tᵀ      y_t = w_t Sᵀ q_t      y_t = Σ_(s <= t) e^(l_t - l_s) (q_t · k_s) v_s

Shape letters: N rows (batch times chunks), H head, C time inside a chunk, K key channels, V value
channels, x rows of a block.

Source: the chunkwise form of gated linear attention (Yang et al. 2024, arXiv 2312.06635).
"""

import math

import torch
from torch import Tensor

from kernels.blocks import cache_blocks


def recall_state(k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor) -> Tensor:
    """State that every chunk writes: [N, H, K, V] in the dtype of the weights.

    Args:
        k_NHCK: Keys, any floating dtype.
        v_NHCV: Values.
        weight_NHC: Decay of each token until the chunk's end, float32 or wider.

    Cost: 2 N H C K V FLOPs.
    """
    (N, H, _, K), V = k_NHCK.shape, v_NHCV.shape[-1]
    state_NHKV = weight_NHC.new_empty(N, H, K, V)
    for rows in _blocks(weight_NHC):
        written = k_NHCK[rows] * weight_NHC[rows, :, :, None]
        _product(written.mT, v_NHCV[rows].to(weight_NHC.dtype), state_NHKV[rows])
    return state_NHKV


def recall_state_backward(
    grad_NHKV: Tensor, k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `recall_state`: (dk, dv, dweight)."""
    dk_NHCK, dweight_NHC = _read_gradients(v_NHCV, grad_NHKV, k_NHCK, weight_NHC)
    dv_NHCV = torch.empty_like(v_NHCV, memory_format=torch.contiguous_format)
    for rows in _blocks(weight_NHC):
        written = k_NHCK[rows].to(grad_NHKV.dtype) @ grad_NHKV[rows]
        torch.mul(written, weight_NHC[rows, :, :, None], out=dv_NHCV[rows])
    return dk_NHCK, dv_NHCV, dweight_NHC


def recall_read(
    q_NHCK: Tensor, weight_NHC: Tensor, state_NHKV: Tensor, rest_NHCV: Tensor
) -> Tensor:
    """Read-out of the state before each chunk, added to `rest`.

    Args:
        q_NHCK: Queries.
        weight_NHC: Decay of the state until each token, float32 or wider.
        state_NHKV: State before each chunk, in the dtype of the weights.
        rest_NHCV: Values to which the read-out is added.

    Returns:
        y_NHCV in the dtype of `rest`.

    Cost: 2 N H C K V FLOPs.
    """
    y_NHCV = torch.empty_like(rest_NHCV, memory_format=torch.contiguous_format)
    for rows in _blocks(weight_NHC):
        read = q_NHCK[rows].to(state_NHKV.dtype) @ state_NHKV[rows]
        torch.add(rest_NHCV[rows], read.mul_(weight_NHC[rows, :, :, None]), out=y_NHCV[rows])
    return y_NHCV


def recall_read_backward(
    grad_NHCV: Tensor, q_NHCK: Tensor, weight_NHC: Tensor, state_NHKV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `recall_read`: (dq, dweight, dstate); that of `rest` is the incoming one."""
    dq_NHCK, dweight_NHC = _read_gradients(grad_NHCV, state_NHKV, q_NHCK, weight_NHC)
    return dq_NHCK, dweight_NHC, recall_state(q_NHCK, grad_NHCV, weight_NHC)


def _read_gradients(
    v_NHCV: Tensor, state_NHKV: Tensor, k_NHCK: Tensor, weight_NHC: Tensor
) -> tuple[Tensor, Tensor]:
    # gradients of Σ w_t k_tᵀ S v_t with respect to k and to w
    dk_NHCK = torch.empty_like(k_NHCK, memory_format=torch.contiguous_format)
    dweight_NHC = torch.empty_like(weight_NHC, memory_format=torch.contiguous_format)
    for rows in _blocks(weight_NHC):
        unweighted = v_NHCV[rows].to(state_NHKV.dtype) @ state_NHKV[rows].mT
        dweight_NHC[rows] = torch.linalg.vecdot(unweighted, k_NHCK[rows].to(unweighted.dtype))
        torch.mul(unweighted, weight_NHC[rows, :, :, None], out=dk_NHCK[rows])
    return dk_NHCK, dweight_NHC


def recall_local(
    q_NHCK: Tensor, k_NHCK: Tensor, v_NHCV: Tensor, total_NHC: Tensor, segment_NC: Tensor | None
) -> Tensor:
    """Read-out of each token's own chunk: of the token itself and of those before it.

    Args:
        q_NHCK: Queries.
        k_NHCK: Keys.
        v_NHCV: Values.
        total_NHC: Sum of the logarithms of the decays from the chunk's beginning to each token,
            float32 or wider.
        segment_NC: Document numbers: no document reads another; None for one document.

    Returns:
        y_NHCV in the dtype of v.

    Cost: 2 N H C^2 (K + V) FLOPs; [C, C] matrices exist for one block of rows only.
    """
    y_NHCV = torch.empty_like(v_NHCV, memory_format=torch.contiguous_format)
    for rows in _blocks(total_NHC):
        weight = lag_weights(total_NHC[rows], None if segment_NC is None else segment_NC[rows])
        q, k, v = (x[rows].to(weight.dtype) for x in (q_NHCK, k_NHCK, v_NHCV))
        _product(weight.mul_(q @ k.mT), v, y_NHCV[rows])
    return y_NHCV


def recall_local_backward(
    grad_NHCV: Tensor,
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    v_NHCV: Tensor,
    total_NHC: Tensor,
    segment_NC: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `recall_local`: (dq, dk, dv, dtotal). The scores are computed again."""
    dq, dk, dv = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_NHCK, k_NHCK, v_NHCV)
    )
    dtotal = torch.empty_like(total_NHC, memory_format=torch.contiguous_format)
    for rows in _blocks(total_NHC):
        inputs = (q_NHCK, k_NHCK, v_NHCV, grad_NHCV)
        q, k, v, grad = (x[rows].to(total_NHC.dtype) for x in inputs)
        weight = lag_weights(total_NHC[rows], None if segment_NC is None else segment_NC[rows])
        product = q @ k.mT
        dproduct = (grad @ v.mT).mul_(weight)
        _product(weight.mul_(product).mT, grad, dv[rows])
        _product(dproduct, k, dq[rows])
        _product(dproduct.mT, q, dk[rows])
        # a score's weight is e^(l_t - l_s): what l_t gains, l_s loses
        dlag = product.mul_(dproduct)
        dtotal[rows] = dlag.sum(-1) - dlag.sum(-2)
    return dq, dk, dv, dtotal


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a b into `out`; without a copy if all have one dtype."""
    if out.dtype == a.dtype:
        torch.matmul(a, b, out=out)
    else:
        out.copy_(a @ b)


def _blocks(weight_NHC: Tensor) -> list[slice]:
    N, H, C = weight_NHC.shape
    return cache_blocks(N, H * C * C, weight_NHC.device)


def lag_weights(total_xHC: Tensor, segment_xC: Tensor | None) -> Tensor:
    """Weights e^(l_t - l_s) where s <= t and both belong to one document, else 0: [x, H, C, C]."""
    C, dtype = total_xHC.shape[-1], total_xHC.dtype
    visible = torch.ones(C, C, dtype=torch.bool, device=total_xHC.device).tril_()
    if segment_xC is not None:
        visible = (visible & (segment_xC[:, :, None] == segment_xC[:, None]))[:, None]
    lag_xHCC = total_xHC[..., :, None] - total_xHC[..., None, :]
    # exponentials that are infinite or denormal are tens of times slower
    lag_xHCC.clamp_(math.log(torch.finfo(dtype).tiny), 0.0)
    return lag_xHCC.exp_().mul_(visible.to(dtype))
