"""Rotary phases: the frequencies omega of recall heads' modes (Su et al. 2021, arXiv 2104.09864).

A mode's frequency may also depend on the data: each token then adds an angle to that of its
position. Channels (f, f + F) of a head are a pair.

Shape letters: B batch, T time (tokens), J chunk, N = B J rows, C time inside a chunk, H head, K key
channels, V value channels, F = K / 2 frequencies.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
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


class Turns(NamedTuple):
    """Rotations by data-dependent angles, since the beginning of each token's chunk.

    Angles are summed inside a chunk only, and the state is turned at its end: nothing grows with
    the length of a sequence.

    Attributes:
        cos_NHCF, sin_NHCF: Rotation up to and including each token.
        end_BJHF: Rotation of the state from the frame of a chunk's beginning into that of its end,
            as complex numbers.
    """

    cos_NHCF: Tensor
    sin_NHCF: Tensor
    end_BJHF: Tensor

    def turned(self, x_NHCK: Tensor) -> Tensor:
        """Queries or keys in the frame of their chunk's beginning."""
        return rotate(x_NHCK, self.cos_NHCF, self.sin_NHCF)

    def at_end(self, x_BJHKV: Tensor) -> Tensor:
        """States in the frame of their chunk's end."""
        end_BJH1F = self.end_BJHF[..., None, :]
        return rotate(x_BJHKV.mT, end_BJH1F.real, end_BJH1F.imag).mT


def chunk_turns(angle_BTHF: Tensor, chunk: int) -> Turns:
    """Rotations in chunks, from each token's angles; none past the end of the sequence."""
    B, T, H, _ = angle_BTHF.shape
    angle_BTHF = nnf.pad(angle_BTHF, (0, 0, 0, 0, 0, -T % chunk))
    angle_BJHCF = angle_BTHF.view(B, -1, chunk, H, angle_BTHF.shape[-1]).transpose(2, 3)
    # sums of many angles lose precision in float32
    total_BJHCF = angle_BJHCF.double().cumsum(-2).remainder(2 * math.pi).to(angle_BTHF.dtype)
    cos_BJHCF, sin_BJHCF = total_BJHCF.cos(), total_BJHCF.sin()
    end_BJHF = torch.complex(cos_BJHCF[..., -1, :], -sin_BJHCF[..., -1, :])
    return Turns(cos_BJHCF.flatten(0, 1), sin_BJHCF.flatten(0, 1), end_BJHF)


def rotate(x_K: Tensor, cos_F: Tensor, sin_F: Tensor) -> Tensor:
    """Pairs of channels, turned by angles with these cosines and sines; in the dtype of x."""
    first, second = x_K.chunk(2, dim=-1)
    turned = torch.cat([first * cos_F - second * sin_F, second * cos_F + first * sin_F], dim=-1)
    return turned.to(x_K.dtype)


def as_complex(state_KV: Tensor) -> Tensor:
    """A state's pairs of rows as complex numbers: [..., F, V]."""
    return torch.complex(*state_KV.chunk(2, dim=-2))


def as_pairs(state_FV: Tensor) -> Tensor:
    """Complex numbers as a state's pairs of rows: [..., K, V]."""
    return torch.cat([state_FV.real, state_FV.imag], dim=-2)
