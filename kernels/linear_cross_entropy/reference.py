"""Cross-entropy of a linear output layer, a block of tokens at a time.

Shape letters: N tokens, D channels, V vocabulary.
"""

import torch
from torch import Tensor

from kernels.precision import full_precision, is_half, work_dtype

# label of tokens without a next token
IGNORE = -100
# tokens per block: no more than this many rows of logits exist at a time
BLOCK = 1024


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, with_grad: bool, z_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the tokens' negative log-likelihoods and z-losses, and its gradients.

    The z-loss of a token is z_weight * logsumexp(logits)^2: it keeps logits near zero.

    The gradients are taken in the same pass, while a block's logits exist: the [N, V] matrix
    never does and no block is computed twice. The loss is a sum, so the backward pass only scales
    them.

    Args:
        x_ND: Final hidden states.
        weight_VD: Output layer.
        labels_N: Next tokens; -100 for none.
        with_grad: Whether to compute the gradients (empty tensors otherwise).
        z_weight: Weight of the z-loss.

    Returns:
        (loss, a scalar in nats, float32 or wider; the z-loss in it; dx_ND; dweight_VD).

    Cost: 2 N V D FLOPs for the loss, 6 N V D with gradients; BLOCK * V floats of scratch.
    Sources: the memory argument of Wijmans et al. 2024, Cut Your Losses (arXiv 2411.09009); the
    z-loss of Chowdhery et al. 2022, PaLM (arXiv 2204.02311).
    """
    dtype = work_dtype(x_ND)
    if is_half(x_ND):
        # not every CPU multiplies it; an autocast around the operator would round it again
        with torch.autocast(x_ND.device.type, enabled=False):
            loss, z_loss, dx_ND, dweight_VD = linear_cross_entropy(
                full_precision(x_ND), full_precision(weight_VD), labels_N, with_grad, z_weight
            )
        return loss, z_loss, dx_ND.to(x_ND.dtype), dweight_VD.to(x_ND.dtype)
    loss, z_loss = x_ND.new_zeros((), dtype=dtype), x_ND.new_zeros((), dtype=dtype)
    dx_ND = torch.zeros_like(x_ND) if with_grad else x_ND.new_empty(0)
    dweight_VD = torch.zeros_like(weight_VD) if with_grad else weight_VD.new_empty(0)
    for begin in range(0, x_ND.shape[0], BLOCK):
        x_nD, labels_n = x_ND[begin : begin + BLOCK], labels_N[begin : begin + BLOCK]
        valid_n = labels_n != IGNORE
        # labels out of range are not hidden: gather rejects them
        target_n1 = torch.where(valid_n, labels_n, 0)[:, None]
        p_nV = full_precision(x_nD @ weight_VD.t())
        top_n1 = p_nV.amax(-1, keepdim=True)
        picked_n = p_nV.gather(1, target_n1)[:, 0]
        p_nV.sub_(top_n1).exp_()
        total_n1 = p_nV.sum(-1, keepdim=True)
        lse_n1 = total_n1.log() + top_n1
        nll_n = lse_n1[:, 0] - picked_n
        loss += torch.where(valid_n, nll_n, 0.0).sum()
        if z_weight:
            z_loss += z_weight * torch.where(valid_n, lse_n1[:, 0].square(), 0.0).sum()
        if with_grad:
            # d lse^2 = 2 lse p
            slope_n1 = 1.0 + 2.0 * z_weight * lse_n1 if z_weight else 1.0
            p_nV.mul_(valid_n[:, None] * slope_n1 / total_n1)
            p_nV.scatter_add_(1, target_n1, -valid_n[:, None].to(dtype))
            p_nV = p_nV.to(x_ND.dtype)
            dx_ND[begin : begin + BLOCK] = p_nV @ weight_VD
            dweight_VD.addmm_(p_nV.t(), x_nD)
    return loss + z_loss, z_loss, dx_ND, dweight_VD
