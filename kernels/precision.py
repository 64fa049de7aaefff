"""The precision in which the ops compute."""

import torch
from torch import Tensor


def work_dtype(x: Tensor) -> torch.dtype:
    """The dtype to compute in: float32 for half precision, otherwise the tensor's own."""
    return torch.promote_types(x.dtype, torch.float32)


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32 or wider: states, phases and spectra need it."""
    return x.to(work_dtype(x))
