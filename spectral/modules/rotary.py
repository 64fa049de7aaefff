"""Rotary phases: the frequencies omega of recall heads' modes (Su et al. 2021, arXiv 2104.09864).

Shape letters: T time (tokens), F frequencies.
"""

import torch
from torch import Tensor

from kernels.precision import work_dtype


def rotary_phases(
    position: int, length: int, head_dim: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(cos_TF, sin_TF) for positions position ... position + length - 1.

    Angles are computed in float64: in float32, omega * t at t = 204,800 is off by several
    hundredths of a radian.

    Args:
        position: Absolute position of the first token.
        length: Number of tokens T.
        head_dim: Channels K of a head, even.
        base: Wavelengths run from 2 pi to 2 pi * base tokens.
        like: A tensor of the wanted device and dtype; phases of half precision are float32.
    """
    exponent_F = torch.arange(0, head_dim, 2, dtype=torch.float64, device=like.device) / head_dim
    time_T = torch.arange(position, position + length, dtype=torch.float64, device=like.device)
    angle_TF = time_T[:, None] * base**-exponent_F
    dtype = work_dtype(like)
    return angle_TF.cos().to(dtype), angle_TF.sin().to(dtype)
