"""RMSNorm of each head's channels, scaled, and gated by silu: between mixing and projection.

    y = x / sqrt(mean(x^2) + eps) * scale * gate * sigmoid(gate)

Shape letters: R rows (batch times time), D channels, H heads of K channels each (D = H K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# rows that are worked on at a time on CPU: several of their temporaries stay in the cache
BLOCK_ELEMENTS = 1 << 16


def norm_gate(
    x_RD: Tensor, gate_RD: Tensor, scale_D: Tensor, num_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Normalise every head, scale every channel, gate.

    Args:
        x_RD: What was mixed.
        gate_RD: Gate before its silu.
        scale_D: Learned scale of every channel.
        num_heads: D is divided among them.
        eps: Added to the mean square.

    Returns:
        (y_RD in the dtype of the gate, 1 / root mean square [R, H] for the backward pass).

    Cost: x and gate read once, y written once; blocks of rows stay in a processor's cache.
    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """
    R, D = x_RD.shape
    work = torch.promote_types(x_RD.dtype, torch.float32)
    y_RD = torch.empty_like(gate_RD, memory_format=torch.contiguous_format)
    inverse_RH = x_RD.new_empty(R, num_heads, dtype=work)
    for rows in _blocks(x_RD):
        x_rHK = x_RD[rows].to(work).unflatten(-1, (num_heads, -1))
        mean_rH = torch.linalg.vecdot(x_rHK, x_rHK) * (num_heads / D)
        inverse_rH = torch.rsqrt(mean_rH + eps, out=inverse_RH[rows])
        normal_rD = (x_rHK * inverse_rH[..., None]).flatten(-2)
        y_RD[rows] = F.silu(gate_RD[rows].to(work)).mul_(normal_rD).mul_(scale_D)
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
    for rows in _blocks(x_RD):
        gate_rD, grad_rD = gate_RD[rows].to(work), grad_RD[rows].to(work)
        inverse_rH1 = inverse_RH[rows, :, None]
        normal_rHK = x_RD[rows].to(work).unflatten(-1, (H, -1)) * inverse_rH1
        normal_rD = normal_rHK.flatten(-2)
        sigmoid_rD = gate_rD.sigmoid()
        silu_rD = gate_rD * sigmoid_rD
        # of silu: sigmoid + silu (1 - sigmoid)
        slope_rD = torch.addcmul(sigmoid_rD, silu_rD, 1.0 - sigmoid_rD)
        through_rD = grad_rD * normal_rD
        dscale_D += (through_rD * silu_rD).sum(0)
        dgate_RD[rows] = through_rD.mul_(scale_D).mul_(slope_rD)
        dnormal_rHK = silu_rD.mul_(grad_rD).mul_(scale_D).unflatten(-1, (H, -1))
        # the radial part of a gradient does not move a normalised vector
        radial_rH = torch.linalg.vecdot(dnormal_rHK, normal_rHK) * (H / D)
        tangent_rHK = dnormal_rHK.sub_(normal_rHK.mul_(radial_rH[..., None]))
        dx_RD[rows] = tangent_rHK.mul_(inverse_rH1).flatten(-2)
    return dx_RD, dgate_RD, dscale_D.to(scale_D.dtype)


def _blocks(x_RD: Tensor) -> list[slice]:
    R, D = x_RD.shape
    # a GPU has no use for small blocks
    size = max(1, BLOCK_ELEMENTS // D) if x_RD.device.type == "cpu" else max(1, R)
    return [slice(begin, begin + size) for begin in range(0, R, size)]
