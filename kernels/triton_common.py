"""Common parts of the Triton kernels: operands of matrix products, complex numbers, launches.

Imported by `triton.py` files only. Triton's interpreter (`TRITON_INTERPRET=1`) cannot multiply
bfloat16: operands are rounded to it and multiplied in float32, as a tensor core does.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
EMULATED = tl.constexpr(INTERPRETED)
# float32 operands as three of bfloat16 each; the interpreter multiplies float32 as it is
FLOAT32 = tl.constexpr("ieee" if INTERPRETED else "bf16x6")

SERVED = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def operand(value, DT: tl.constexpr):
    """A matrix product's operand, rounded to DT."""
    if tl.bfloat16 == DT and EMULATED:
        return value.to(tl.bfloat16).to(tl.float32)
    return value.to(DT)


@triton.jit
def product(a, b, acc, DT: tl.constexpr):
    """Sum acc + a b, accumulated in float32.

    float32 operands are split into bfloat16 ones, so that tensor cores multiply them with all bits.
    """
    return tl.dot(operand(a, DT), operand(b, DT), acc, input_precision=FLOAT32)


@triton.jit
def cmul(a_re, a_im, b_re, b_im):
    """Product of complex numbers."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def load_complex(pointer, index, mask):
    """Real and imaginary parts of interleaved complex numbers, float32; zero where masked."""
    re = tl.load(pointer + 2 * index, mask=mask, other=0.0)
    im = tl.load(pointer + 2 * index + 1, mask=mask, other=0.0)
    return re.to(tl.float32), im.to(tl.float32)


@triton.jit
def store_complex(pointer, index, re, im, mask):
    """Store real and imaginary parts, interleaved."""
    tl.store(pointer + 2 * index, re, mask=mask)
    tl.store(pointer + 2 * index + 1, im, mask=mask)


def tuned(*warps: int, key: list[str]) -> Callable[[Any], Any]:
    """Decorator that tunes the number of warps on a GPU; without one it takes the first.

    Args:
        warps: Numbers of warps to try.
        key: Arguments whose change starts a new tuning.
    """
    tunes = torch.cuda.is_available() and not INTERPRETED
    chosen = warps if tunes else warps[:1]
    configs = [triton.Config({}, num_warps=num, num_stages=1) for num in chosen]
    return triton.autotune(configs=configs, key=key)


def operand_type(tensor: Tensor) -> Any:
    """Triton's name of a tensor's dtype.

    Raises:
        NotServedError: No kernels exist for this dtype.
    """
    if tensor.dtype not in SERVED:
        raise NotServedError(f"there are no kernels for {tensor.dtype}")
    return SERVED[tensor.dtype]


def served_complex(*tensors: Tensor) -> None:
    """Reject all dtypes but complex64.

    Raises:
        NotServedError: A tensor has another dtype.
    """
    for tensor in tensors:
        if tensor.dtype != torch.complex64:
            raise NotServedError(f"there are no kernels for {tensor.dtype}")


def pairs(tensor: Tensor) -> Tensor:
    """Contiguous interleaved real and imaginary parts."""
    return torch.view_as_real(tensor.resolve_conj().contiguous())


def block_of(size: int, most: int) -> int:
    """Edge of a tile over `size`: a power of two, at least 16, at most `most`."""
    return min(most, max(16, triton.next_power_of_2(size)))
