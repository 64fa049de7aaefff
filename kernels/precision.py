"""The precision in which the ops compute."""

import torch
from torch import Tensor


def work_dtype(x: Tensor) -> torch.dtype:
    """The dtype to compute in: float32 for half precision, otherwise the tensor's own."""
    return torch.promote_types(x.dtype, torch.float32)


def is_half(x: Tensor) -> bool:
    """Whether a tensor is in half precision."""
    return x.dtype in (torch.bfloat16, torch.float16)


def as_signal(x: Tensor) -> Tensor:
    """The tensor as ops exchange it: bfloat16 under autocast to it, otherwise as it is.

    float16 has too few exponents for signals that no scale follows: only its products are half.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
        return x.to(torch.bfloat16)
    return x


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32 or wider: states, phases and spectra need it."""
    return x.to(work_dtype(x))
