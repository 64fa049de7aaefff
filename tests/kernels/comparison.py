"""A kernel and its reference, both against the reference in float64."""

import importlib
import os
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

# relative, in norm
BARS = {torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 4e-3}
DTYPES = sorted(BARS, key=str)
DEVICE = torch.device(os.environ.get("RESONANCE_TEST_DEVICE", "cpu"))


def _round_to_bfloat16() -> None:
    """The interpreter truncates float32 to bfloat16; a GPU rounds to nearest, ties to even."""
    convert = interpreter._convert_float

    def rounding(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(values, source, target, mode)
        bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        rounded[np.isnan(values)] = 0x7FC0
        return rounded

    interpreter._convert_float = rounding


if DEVICE.type == "cpu":
    _round_to_bfloat16()


def check(op: str, name: str, *arguments: Any) -> None:
    """A kernel's and its reference's outputs are as near to float64 as their dtype asks.

    The bar is the one of the coarsest dtype among the arguments.
    """
    kernel, reference = (
        getattr(importlib.import_module(f"kernels.{op}.{kind}"), name)
        for kind in ("triton", "reference")
    )
    dtypes = {a.dtype for a in arguments if isinstance(a, Tensor)}
    bar = max(BARS.get(dtype, BARS[torch.float32]) for dtype in dtypes)
    placed = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments]
    exact = reference(*(wide(a) for a in arguments))
    for function in (kernel, reference):
        found = function(*placed)
        both = ((found,), (exact,)) if isinstance(found, Tensor) else (found, exact)
        for number, (ours, theirs) in enumerate(zip(*both, strict=True)):
            assert ours.shape == theirs.shape
            assert ours.device == placed[0].device
            # a gradient that is exactly zero has no relative error
            error = (wide(ours.cpu()) - theirs).norm() / (theirs.norm() if theirs.any() else 1.0)
            place = f"{function.__module__}.{name}, output {number}"
            assert error <= bar, f"{place}: {error:.1e}, at most {bar:.0e}"


def wide(value: Any) -> Any:
    """A tensor in double precision; others as they are."""
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def strided(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal, and not contiguous."""
    return torch.randn(*shape[:-2], shape[-1], shape[-2]).to(dtype).mT
