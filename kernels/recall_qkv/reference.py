"""Inputs of recall heads: queries and keys of unit length, rotated by their phases, and values.

    q = rotate(unit(silu(x)))      k = rotate(unit(silu(x)))      v = silu(x)

Shape letters: B batch, T time (tokens), R channels of all heads, J chunk, N = B J rows, H head, C
time inside a chunk, K channels of a head, F = K / 2 pairs of channels.

Source: rotary phases of Su et al. 2021 (arXiv 2104.09864).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.blocks import cache_blocks
from kernels.precision import full_precision, is_half, work_dtype

# divisor of vectors that are shorter, which so stay below unit length
SHORTEST = 1e-12


def recall_inputs(
    qkv_BT3R: Tensor, cos_TF: Tensor, sin_TF: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Silu of all; for q and k each head's direction, with channels (f, f + F) rotated.

    Args:
        qkv_BT3R: Projections.
        cos_TF: Cosines of the tokens' angles, float32 or wider.
        sin_TF: Sines of the tokens' angles.
        num_heads: Number of heads, which share the R channels.
        chunk: Tokens per chunk C; time past the end of the last one is zero.

    Returns:
        (q, k, v [N, H, C, K] contiguous; 1 / length of q and of k [N, H, C], float32 or wider,
        for the backward pass).

    Cost: O(B T R); inputs read once and outputs written once on CPU, block by block.
    """
    q_BTR, k_BTR, v_BTR = qkv_BT3R.unbind(2)
    outputs = []
    for x_BTR in (q_BTR, k_BTR):
        x_BJCHK = _heads(x_BTR, num_heads, chunk)
        B, J, C, H, K = x_BJCHK.shape
        work = work_dtype(x_BTR)
        y_BJHCK = x_BTR.new_empty(B, J, H, C, K)
        inverse_BJHC = x_BTR.new_empty(B, J, H, C, dtype=work)
        cos_JC1F, sin_JC1F = (_heads(i[None], 1, chunk)[0] for i in (cos_TF, sin_TF))
        for b, rows in _blocks(x_BJCHK):
            x_jCHK = F.silu(full_precision(x_BJCHK[b, rows]))
            length_jCH = torch.linalg.vector_norm(x_jCHK, dim=-1, dtype=work)
            inverse_jCH = length_jCH.clamp_(min=SHORTEST).reciprocal_()
            inverse_BJHC[b, rows] = inverse_jCH.transpose(1, 2)
            x_jCHK.mul_(inverse_jCH[..., None])
            _rotate(x_jCHK, cos_JC1F[rows], sin_JC1F[rows], y_BJHCK[b, rows].transpose(1, 2))
        outputs += [y_BJHCK.flatten(0, 1), inverse_BJHC.flatten(0, 1)]
    q_NHCK, q_inverse_NHC, k_NHCK, k_inverse_NHC = outputs
    v_NHCK = torch.empty_like(q_NHCK)
    x_BJCHK = _heads(v_BTR, num_heads, chunk)
    torch.ops.aten.silu.out(x_BJCHK, out=v_NHCK.unflatten(0, x_BJCHK.shape[:2]).transpose(2, 3))
    return q_NHCK, k_NHCK, v_NHCK, q_inverse_NHC, k_inverse_NHC


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
    """Gradient of `recall_inputs` with respect to qkv_BT3R."""
    (B, T, _, R), (N, H, C, _) = qkv_BT3R.shape, q_NHCK.shape
    # time past the end is cut off below
    dqkv_BT3R = qkv_BT3R.new_empty(B, N // B * C, 3, R)
    dq_BTR, dk_BTR, dv_BTR = dqkv_BT3R.unbind(2)
    q_BTR, k_BTR, v_BTR = qkv_BT3R.unbind(2)
    for grad_NHCK, x_BTR, dx_BTR, y_NHCK, inverse_NHC in (
        (dq_NHCK, q_BTR, dq_BTR, q_NHCK, q_inverse_NHC),
        (dk_NHCK, k_BTR, dk_BTR, k_NHCK, k_inverse_NHC),
    ):
        x_BJCHK, dx_BJCHK = _heads(x_BTR, H, C), _heads(dx_BTR, H, C)
        grad_BJHCK, y_BJHCK = (i.unflatten(0, x_BJCHK.shape[:2]) for i in (grad_NHCK, y_NHCK))
        inverse_BJHC1 = inverse_NHC.unflatten(0, x_BJCHK.shape[:2])[..., None]
        cos_JC1F, sin_JC1F = (_heads(i[None], 1, C)[0] for i in (cos_TF, sin_TF))
        for b, rows in _blocks(x_BJCHK):
            grad_jHCK, y_jHCK = (full_precision(i[b, rows]) for i in (grad_BJHCK, y_BJHCK))
            # the radial part of a gradient does not move a vector of unit length
            radial_jHC1 = (grad_jHCK * y_jHCK).sum(-1, keepdim=True)
            tangent_jHCK = torch.addcmul(grad_jHCK, y_jHCK, radial_jHC1, value=-1.0)
            tangent_jCHK = tangent_jHCK.mul_(inverse_BJHC1[b, rows]).transpose(1, 2)
            dx_jCHK = x_jCHK = dx_BJCHK[b, rows]
            if is_half(dx_jCHK):
                x_jCHK = torch.empty_like(tangent_jCHK)
            _rotate(tangent_jCHK, cos_JC1F[rows], -sin_JC1F[rows], x_jCHK)
            _silu_backward(x_jCHK, full_precision(x_BJCHK[b, rows]), dx_jCHK)
    x_BJCHK = _heads(v_BTR, H, C)
    dv_BJCHK = dv_NHCK.transpose(1, 2).unflatten(0, x_BJCHK.shape[:2])
    _silu_backward(dv_BJCHK, x_BJCHK, _heads(dv_BTR, H, C))
    return dqkv_BT3R[:, :T].contiguous()


def _silu_backward(grad: Tensor, x: Tensor, out: Tensor) -> None:
    torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=out)


def _rotate(x_jCHK: Tensor, cos_jC1F: Tensor, sin_jC1F: Tensor, out_jCHK: Tensor) -> None:
    first, second = x_jCHK.chunk(2, dim=-1)
    # half precision is rounded once, at the end
    rotated_jCHK = torch.empty_like(x_jCHK) if is_half(out_jCHK) else out_jCHK
    out_first, out_second = rotated_jCHK.chunk(2, dim=-1)
    torch.mul(first, cos_jC1F, out=out_first).addcmul_(second, sin_jC1F, value=-1.0)
    torch.mul(second, cos_jC1F, out=out_second).addcmul_(first, sin_jC1F)
    if rotated_jCHK is not out_jCHK:
        out_jCHK.copy_(rotated_jCHK)


def _heads(x_BTR: Tensor, num_heads: int, chunk: int) -> Tensor:
    """Chunks and heads of a signal, zeros past its end: [B, J, C, H, K], a view if T fits."""
    lacking = -x_BTR.shape[1] % chunk
    if lacking:
        x_BTR = F.pad(x_BTR, (0, 0, 0, lacking))
    return x_BTR.unflatten(1, (-1, chunk)).unflatten(-1, (num_heads, -1))


def _blocks(x_BJCHK: Tensor) -> Iterator[tuple[int, slice]]:
    """Row of the batch and chunks of each block."""
    B, J, *sizes = x_BJCHK.shape
    chunks = cache_blocks(J, torch.Size(sizes).numel(), x_BJCHK.device)
    return ((b, rows) for b in range(B) for rows in chunks)
