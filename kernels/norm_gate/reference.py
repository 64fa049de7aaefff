"""RMSNorm of each head's channels, scaled, and gated by silu: between mixing and projection.

    y = x / sqrt(mean(x^2) + eps) * scale * gate * sigmoid(gate)

Shape letters: R rows (batch times time), D channels, H heads of K channels each (D = H K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.blocks import cache_blocks
from kernels.precision import work_dtype


def norm_gate(
    x_RD: Tensor, gate_RD: Tensor, scale_D: Tensor, num_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Heads normalised to unit root mean square, scaled and gated.

    Args:
        x_RD: Output of the mixing.
        gate_RD: Gate before its silu.
        scale_D: Learned scale of every channel.
        num_heads: Number of heads, which share the D channels.
        eps: Number added to the mean square.

    Returns:
        (y_RD in the dtype of the gate, 1 / root mean square [R, H] for the backward pass).

    Cost: x and gate read once, y written once; blocks of rows stay in a processor's cache.
    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """
    R, D = x_RD.shape
    work = work_dtype(x_RD)
    y_RD = torch.empty_like(gate_RD, memory_format=torch.contiguous_format)
    inverse_RH = x_RD.new_empty(R, num_heads, dtype=work)
    for rows in cache_blocks(R, D, x_RD.device):
        x_rHK = x_RD[rows].to(work).unflatten(-1, (num_heads, -1))
        inverse_rH = torch.linalg.vector_norm(x_rHK, dim=-1, out=inverse_RH[rows])
        inverse_rH.square_().mul_(num_heads / D).add_(eps).rsqrt_()
        normal_rD = (x_rHK * inverse_rH[..., None]).flatten(-2)
        torch.mul(normal_rD.mul_(F.silu(gate_RD[rows].to(work))), scale_D, out=y_RD[rows])
    return y_RD, inverse_RH


def norm_gate_backward(
    grad_RD: Tensor, x_RD: Tensor, gate_RD: Tensor, scale_D: Tensor, inverse_RH: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `norm_gate`: (dx_RD, dgate_RD, dscale_D)."""
    H, D = inverse_RH.shape[1], x_RD.shape[1]
    work = inverse_RH.dtype
    dx_RD = torch.empty_like(x_RD, memory_format=torch.contiguous_format)
    dgate_RD = torch.empty_like(gate_RD, memory_format=torch.contiguous_format)
    dscale_D = scale_D.new_zeros(D, dtype=work)
    for rows in cache_blocks(len(x_RD), D, x_RD.device):
        gate_rD, grad_rD = gate_RD[rows].to(work), grad_RD[rows].to(work)
        inverse_rH1 = inverse_RH[rows, :, None]
        normal_rHK = x_RD[rows].to(work).unflatten(-1, (H, -1)) * inverse_rH1
        silu_rD = F.silu(gate_rD)
        through_rD = grad_rD * normal_rHK.flatten(-2)
        whole_rD = through_rD * silu_rD
        dscale_D += whole_rD.sum(0)
        dgate_RD[rows] = torch.ops.aten.silu_backward(through_rD.mul_(scale_D), gate_rD)
        # the radial part of a gradient does not move a normalised vector
        radial_rH = whole_rD.mul_(scale_D).unflatten(-1, (H, -1)).sum(-1).mul_(H / D)
        dnormal_rHK = silu_rD.mul_(grad_rD).mul_(scale_D).unflatten(-1, (H, -1))
        tangent_rHK = dnormal_rHK.addcmul_(normal_rHK, radial_rH[..., None], value=-1.0)
        torch.mul(tangent_rHK, inverse_rH1, out=dx_RD[rows].unflatten(-1, (H, -1)))
    return dx_RD, dgate_RD, dscale_D.to(scale_D.dtype)
