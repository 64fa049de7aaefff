"""What the Triton kernels share: operands of matrix products, complex products, launches.

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
# AMD's compiler knows no 3xTF32
FLOAT32 = tl.constexpr("ieee" if torch.version.hip else "tf32x3")

SERVED = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def operand(value, DT: tl.constexpr):
    """A matrix product's operand, rounded to DT."""
    if tl.bfloat16 == DT and EMULATED:
        return value.to(tl.bfloat16).to(tl.float32)
    return value.to(DT)


@triton.jit
def _tf32(x):
    """float32 rounded to the 11 significant bits of a tensor core's operand."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, acc, DT: tl.constexpr):
    """acc + a b, accumulated in float32.

    float32 operands are split into two of 11 bits each, whose small products are left out (3xTF32):
    on tensor cores, and as exact as float32. The interpreter, which knows no TF32, does the same.
    """
    if tl.float32 == DT:
        if EMULATED:
            a_high, b_high = _tf32(a), _tf32(b)
            acc = tl.dot(_tf32(a - a_high), b_high, acc)
            acc = tl.dot(a_high, _tf32(b - b_high), acc)
            return tl.dot(a_high, b_high, acc)
        return tl.dot(a, b, acc, input_precision=FLOAT32)
    return tl.dot(operand(a, DT), operand(b, DT), acc)


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
    """Interleave and store."""
    tl.store(pointer + 2 * index, re, mask=mask)
    tl.store(pointer + 2 * index + 1, im, mask=mask)


def tuned(*warps: int, key: list[str]) -> Callable[[Any], Any]:
    """Autotune over numbers of warps where a GPU is; the first one is taken elsewhere."""
    tunes = torch.cuda.is_available() and not INTERPRETED
    chosen = warps if tunes else warps[:1]
    configs = [triton.Config({}, num_warps=num, num_stages=1) for num in chosen]
    return triton.autotune(configs=configs, key=key)


def operand_type(tensor: Tensor) -> Any:
    """Triton's name of a tensor's dtype.

    Raises:
        NotServedError: There are no kernels of this dtype.
    """
    if tensor.dtype not in SERVED:
        raise NotServedError(f"there are no kernels for {tensor.dtype}")
    return SERVED[tensor.dtype]


def served_complex(*tensors: Tensor) -> None:
    """Refuse all but complex64.

    Raises:
        NotServedError: There are no kernels of this dtype.
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
