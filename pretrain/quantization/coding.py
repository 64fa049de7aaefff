"""Codes of a weight: the nearest ones, or with the error fed back to the numbers that follow.

Shape letters: R rows (outputs), C columns (inputs), N numbers, P pairs, T tokens.
"""

import torch
from torch import Tensor

from spectral.modules.polar import (
    BLOCK,
    LEVELS,
    SPLITS,
    PolarWeight,
    block_scales,
    codebook,
    nearest_codes,
    packed,
    rotated,
)

# share of the mean of the diagonal that is added to it, as usual for GPTQ
DAMPING = 0.01


def encoded(polar: PolarWeight, weight: Tensor, moments_CC: Tensor | None = None) -> Tensor:
    """Bytes of a weight.

    Args:
        polar: The parametrization that will read them.
        weight: Its values.
        moments_CC: Mean of x x^T over the inputs that the weight is multiplied with; with it, the
            error of every column pair is made up for by the later columns. None for the nearest
            codes.
    """
    numbers = weight.detach().float() / polar.gain()
    if polar.rotation > 1:
        numbers = rotated(numbers, polar.rotation)
    scale_B = block_scales(numbers.flatten())
    scale_N = scale_B.repeat_interleave(BLOCK)[: numbers.numel()]
    if moments_CC is None:
        codes_P = _codes(polar, numbers.flatten() / scale_N)
    else:
        rows_RC = numbers.reshape(-1, numbers.shape[-1])
        codes_P = _with_feedback(polar, rows_RC, scale_N.view_as(rows_RC), moments_CC)
    return packed(codes_P, scale_B, polar.bits)


def _codes(polar: PolarWeight, normal_N: Tensor) -> Tensor:
    phase_bits, magnitude_bits = SPLITS[polar.bits]
    pairs_P = torch.view_as_complex(normal_N.reshape(-1, 2).contiguous())
    return nearest_codes(pairs_P, phase_bits, LEVELS[magnitude_bits])


def _with_feedback(
    polar: PolarWeight, rows_RC: Tensor, scale_RC: Tensor, moments_CC: Tensor
) -> Tensor:
    """Codes of the column pairs, one after the other (GPTQ, Frantar et al. 2022, arXiv 2210.17323).

    Cost: O(R C^2 + C^3).
    """
    moments_CC = moments_CC.double()
    if polar.rotation > 1:
        # both sides, as the weight's columns are
        moments_CC = rotated(rotated(moments_CC, polar.rotation).T.contiguous(), polar.rotation)
    diagonal = moments_CC.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp_min(1e-12)
    inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(moments_CC))
    factor_CC = torch.linalg.cholesky(inverse_CC, upper=True)
    phase_bits, magnitude_bits = SPLITS[polar.bits]
    table = codebook(phase_bits, LEVELS[magnitude_bits])
    left_RC = rows_RC.double().clone()
    codes = []
    for begin in range(0, rows_RC.shape[1], 2):
        pair = slice(begin, begin + 2)
        scale_R2 = scale_RC[:, pair].double()
        codes.append(_codes(polar, (left_RC[:, pair] / scale_R2).float().flatten()))
        chosen_R2 = torch.view_as_real(table[codes[-1]]).double() * scale_R2
        error_R2 = torch.linalg.solve_triangular(
            factor_CC[pair, pair], left_RC[:, pair] - chosen_R2, upper=True, left=False
        )
        left_RC[:, begin + 2 :] -= error_R2 @ factor_CC[pair, begin + 2 :]
    return torch.stack(codes, dim=1).flatten()
