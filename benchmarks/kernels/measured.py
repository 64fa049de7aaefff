"""Measurements of the causal convolution: its interpreted kernel, and its reference on CPU.

Both functions are for fresh processes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from benchmarks.harness.processes import fastest, resident_bytes
from kernels.fft_conv import reference, triton

# programs that run at the same time: far fewer than an H100's 132 multiprocessors, to be safe
WAVE = 16


def interpreted_bytes(C: int, tokens: int) -> tuple[float, float]:
    """The convolution's kernel with chunks of C tokens, interpreted (TRITON_INTERPRET=1).

    What a wave of consecutive programs touches counts once, since what one of them has read the
    others find in the second-level cache; what the next wave touches counts again.

    Returns:
        (bytes moved per element, relative error in float16).
    """
    D, N = 4, num_rows(C, tokens)
    u, h = torch.randn(D, N, C).half(), (torch.randn(D, C) / C**0.5).half()
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    begin = builder.set_grid_idx
    programs: dict[tuple[int, ...], list[Any]] = {}
    touched: list[Any] = []

    def note(pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        first = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        touched.append((first[:, None] + np.arange(size, dtype=first.dtype)).ravel())

    def noting_load(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
        note(pointers, mask)
        return load(self, pointers, mask, *others)

    def noting_store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        note(pointers, mask)
        return store(self, pointers, value, mask, *others)

    def noting_begin(self: Any, x: int, y: int, z: int) -> Any:
        nonlocal touched
        # a GPU begins programs in this order: the first index changes fastest
        touched = programs[z, y, x] = []
        return begin(self, x, y, z)

    builder.create_masked_load, builder.create_masked_store = noting_load, noting_store
    builder.set_grid_idx = noting_begin
    y = triton.fft_conv(u, h)
    in_order = [np.unique(np.concatenate(programs[index])) for index in sorted(programs)]
    waves = [in_order[first : first + WAVE] for first in range(0, len(in_order), WAVE)]
    moved = sum(len(np.unique(np.concatenate(wave))) for wave in waves)
    exact = reference.fft_conv(u.double(), h.double())
    error = ((y.double() - exact).norm() / exact.norm()).item()
    return moved / u.numel(), error


def num_rows(C: int, tokens: int) -> int:
    """Rows per channel of a signal of about that many tokens; they share the filter's bytes."""
    return max(64, tokens // C)


def time_and_memory(convolve: Callable[[Tensor, Tensor], Tensor], C: int) -> tuple[float, float]:
    """Seconds of a forward and backward pass on this CPU, and MiB of memory beyond the inputs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # the first round loads libraries
    for D, length in ((1, 16), (32, C)):
        u = torch.randn(D, 64, length, requires_grad=True)
        h, grad = torch.randn(D, length, requires_grad=True), torch.randn(D, 64, length)
        before = resident_bytes()
        (seconds,) = fastest(partial(_gradients, convolve, u, h, grad), least=5)
    return seconds, (resident_bytes() - before) / 2**20


def _gradients(
    convolve: Callable[[Tensor, Tensor], Tensor], u: Tensor, h: Tensor, grad: Tensor
) -> None:
    torch.autograd.grad(convolve(u, h), (u, h), grad)
