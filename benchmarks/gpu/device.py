"""The measured device: its clock, its memory, and what it can reach at best."""

import gc
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.harness.processes import fastest, resident_bytes
from benchmarks.harness.results import processor


class Rates(NamedTuple):
    """What a device reaches when it does nothing else, measured in the same run.

    Attributes:
        flops: Operations per second of a large matrix product.
        bandwidth: Bytes per second of a large copy, read and written.
    """

    flops: float
    bandwidth: float

    def bound_s(self, flops: float, num_bytes: float) -> float:
        """Seconds that so many operations and bytes take at least."""
        return max(flops / self.flops, num_bytes / self.bandwidth)


class Device:
    """A GPU or, for the quick form, the CPU."""

    def __init__(self, kind: str):
        self.torch = torch.device(kind)
        self.is_gpu = self.torch.type == "cuda"

    @property
    def name(self) -> str:
        """The device's name as its vendor gives it."""
        return torch.cuda.get_device_name(self.torch) if self.is_gpu else processor()

    @property
    def half(self) -> torch.dtype:
        """The precision of products."""
        return torch.bfloat16 if self.is_gpu else torch.float32

    def seconds(self, run: Callable[[], object], budget_s: float) -> float:
        """Time of a call: the median of many on a GPU, with cold caches.

        Args:
            run: What is timed; it is called a few times before.
            budget_s: Seconds of timing.
        """
        run()
        if not self.is_gpu:
            return fastest(run, seconds=budget_s, least=1)[0]
        from triton.testing import do_bench

        torch.cuda.synchronize()
        milliseconds: float = do_bench(
            run, warmup=int(250 * budget_s), rep=int(1000 * budget_s), return_mode="median"
        )
        return milliseconds / 1e3

    def wall_s(self, run: Callable[[], object]) -> float:
        """Time of one call, from the host's call to the device's end."""
        self._finish()
        begin = time.perf_counter()
        run()
        self._finish()
        return time.perf_counter() - begin

    def start_memory(self) -> int:
        """Forget the peak so far; bytes that are held now."""
        gc.collect()
        if not self.is_gpu:
            return resident_bytes()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        """Most bytes held since `start_memory`; by the whole process so far on a CPU."""
        return torch.cuda.max_memory_allocated() if self.is_gpu else resident_bytes()

    def rates(self, size: int, budget_s: float) -> Rates:
        """The best rates, by a product of square matrices and a copy of one.

        Args:
            size: Rows of the matrices.
            budget_s: Seconds of timing for each.
        """
        a, b = (torch.randn(size, size, device=self.torch, dtype=self.half) for _ in range(2))
        flops = 2.0 * size**3 / self.seconds(lambda: a @ b, budget_s)
        moved = 2.0 * a.numel() * a.element_size()
        return Rates(flops, moved / self.seconds(lambda: b.copy_(a), budget_s))

    def _finish(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()
