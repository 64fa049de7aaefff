"""What the ops in `kernels/` cost: bytes and FLOPs by count, time and memory on this CPU.

    python benchmarks/kernels.py

Bytes of the fused ops are those of the tensors that their launches are handed; of the fused
convolution, what its interpreted kernel really loads and stores. Bytes of the unfused ones are
counted operator by operator while plain PyTorch runs. Lower bounds are an H100's: 3.35 TB/s, 990
TFLOP/s. Timings are ratios to eager autograd by turns in the same run. No GPU is needed or used.
Prints a line per bar and exits with 1 if one falls short.
"""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bars import Bar, judge
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BANDWIDTH, PEAK = 3.35e12, 990e12
CHUNK = 4096
# programs that run side by side: far fewer than an H100's 132 multiprocessors, to be safe
WAVE = 16
VIEWS = {
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty",
    "empty_like", "expand", "permute", "select", "slice", "split", "squeeze", "t", "transpose",
    "unsqueeze", "view", "view_as_complex", "view_as_real",
}  # fmt: skip


class TrafficMode(TorchDispatchMode):
    """Sums the bytes of every operator's inputs and outputs; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        result = function(*args, **(kwargs or {}))
        if function.__name__.split(".")[0] not in VIEWS:
            tensors = [i for i in tree_leaves((args, kwargs, result)) if isinstance(i, Tensor)]
            self.num_bytes += sum(i.numel() * i.element_size() for i in tensors)
        return result


class Row(NamedTuple):
    """An op: plain PyTorch, what its fused form launches, and FLOPs per element."""

    name: str
    num_elements: int
    plain: Callable[[], Any]
    fused: Callable[[], list[Any]]
    flops: float


def plain_convolution(u: Tensor, h: Tensor) -> Tensor:
    """A causal convolution of chunks as torch.fft has it, in float32."""
    C = u.shape[-1]
    spectrum = torch.fft.rfft(u.float(), n=2 * C) * torch.fft.rfft(h.float(), n=2 * C)[:, None]
    return torch.fft.irfft(spectrum, n=2 * C)[..., :C].to(u.dtype)


def rows() -> list[Row]:
    """All ops at the sizes of a layer; forward passes in float16 or complex64."""
    from kernels.aot_compile import launches
    from kernels.fft_conv import triton as fft_conv
    from kernels.modal import triton as modes
    from kernels.modal.reference import mode_powers
    from kernels.norm_gate import triton as norm_gate
    from kernels.recall import triton as recall
    from kernels.short_conv import triton as short_conv
    from kernels.spectral_gate import triton as spectral_gate
    from kernels.state_scan import triton as state_scan

    half, found = torch.float16, []
    for C in (64, 512, 1024, 2048, CHUNK, 8192):
        N = 16_384 // C + 16
        u, h = torch.zeros(4, N, C, dtype=half), torch.zeros(4, C, dtype=half)
        N1 = 1 << ((C - 1).bit_length() + 1) // 2
        flops = C + 64.0 if C <= 512 else 8.0 * N1 + 16.0 * C / N1
        found.append(
            Row(
                f"fft_conv, chunk {C:,}",
                u.numel(),
                lambda u=u, h=h: plain_convolution(u, h),
                lambda u=u, h=h: launches(fft_conv.fft_conv, u, h),
                flops,
            )
        )
    C, M = 1024, 16
    log = torch.complex(-torch.rand(4, M), torch.rand(4, M)).to(torch.complex128)
    _, fine, coarse = mode_powers(log, C, torch.complex64)
    table = (coarse[:, :, None] * fine[:, None]).flatten(1, 2)
    u, state = torch.zeros(4, 256, C, dtype=half), torch.zeros(4, 256, M, dtype=torch.complex64)
    (x, z), scale = torch.zeros(2, 4096, 512, dtype=half), torch.zeros(512, dtype=half)
    q, k, v = torch.zeros(3, 64, 8, 64, 64, dtype=half)
    total = torch.zeros(64, 8, 64)
    memory = torch.zeros(64, 8, 64, 64)
    signal, taps = torch.zeros(1, 4099, 512, dtype=half), torch.zeros(4, 512, dtype=half)
    spectrum = torch.zeros(64, 8, 64, M, dtype=torch.complex64)
    gate = torch.zeros(64, 8, M, dtype=torch.complex64)
    decay, update = torch.zeros(1, 64, 8192).cfloat(), torch.zeros(1, 64, 8192, 1).cfloat()
    mask = torch.ones(64, 64, dtype=torch.bool).tril()

    def plain_local() -> Tensor:
        lag = total[..., :, None] - total[..., None, :]
        weight = lag.masked_fill(~mask, float("-inf")).exp()
        return ((q @ k.mT) * weight).to(half) @ v

    def plain_scan() -> Tensor:
        s, incoming = torch.zeros(1, 8192, 1).cfloat(), []
        for j in range(64):
            incoming.append(s)
            s = decay[:, j, :, None] * s + update[:, j]
        return torch.stack(incoming, dim=1)

    def plain_norm() -> Tensor:
        heads = x.unflatten(-1, (8, 64)).float()
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + 1e-6)
        return heads.flatten(-2).to(half) * scale * F.silu(z)

    found += [
        Row(
            "modal_state", u.numel(),
            lambda: torch.einsum("dnc,dcm->dnm", u.to(torch.complex64), table.flip(1)),
            lambda: launches(modes.modal_state, u, fine, coarse, None), 4.0 * M,
        ),
        Row(
            "modal_read", u.numel(),
            lambda: u + torch.einsum("dnm,dcm->dnc", state, table).real.to(half),
            lambda: launches(modes.modal_read, state, fine, coarse, u, None), 4.0 * M,
        ),
        Row(
            "recall_state", q.numel(),
            lambda: (k * total[..., None].to(half)).mT @ v,
            lambda: launches(recall.recall_state, k, v, total), 2.0 * 64,
        ),
        Row(
            "recall_read", q.numel(),
            lambda: v + (q @ memory.to(half)) * total[..., None].to(half),
            lambda: launches(recall.recall_read, q, total, memory, v), 2.0 * 64,
        ),
        Row(
            "recall_local", q.numel(), plain_local,
            lambda: launches(recall.recall_local, q, k, v, total, None), 4.0 * 64,
        ),
        Row(
            "norm_gate", x.numel(), plain_norm,
            lambda: launches(norm_gate.norm_gate, x, z, scale, 8, 1e-6), 12.0,
        ),
        Row(
            "short_conv", x.numel(),
            lambda: sum(signal[:, w : w + 4096] * taps[w] for w in range(4)),
            lambda: launches(short_conv.short_conv, signal[:, 3:], signal[:, :3], taps, None), 8.0,
        ),
        Row(
            "spectral_energy", spectrum.numel(),
            lambda: spectrum.abs().square().mean(2),
            lambda: launches(spectral_gate.spectral_energy, spectrum), 4.0,
        ),
        Row(
            "gate_spectrum", spectrum.numel(),
            lambda: spectrum * gate[:, :, None],
            lambda: launches(spectral_gate.gate_spectrum, spectrum, gate), 6.0,
        ),
        Row(
            "state_scan", update.numel(), plain_scan,
            lambda: launches(state_scan.state_scan, decay, update, update[:, 0]), 8.0,
        ),
    ]  # fmt: skip
    return found


def launch_bytes(found: list[Any]) -> int:
    """Bytes of all tensors that launches are handed, each read or written once."""
    total = 0
    for launch in found:
        # one buffer may stand in for an argument that is not read
        unique = {i.data_ptr(): i for i in launch.arguments.values() if isinstance(i, Tensor)}
        total += sum(i.numel() * i.element_size() for i in unique.values())
    return total


def interpreted_bytes(C: int) -> tuple[float, float]:
    """(bytes per element that the convolution's kernel moves, and its error in float16).

    In a process of its own, with TRITON_INTERPRET=1. What a wave of consecutive programs touches
    counts once, since what one of them has read the others find in the second-level cache; what the
    next wave touches counts again.
    """
    import numpy as np
    from triton.runtime import interpreter

    from kernels.fft_conv import reference, triton

    D, N = 4, max(64, 16_384 // C)
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

    def noting_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return load(self, pointers, mask, *rest)

    def noting_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return store(self, pointers, value, mask, *rest)

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


def time_and_memory(which: str) -> tuple[list[float], float]:
    """Seconds of forward and backward passes on this CPU, and MiB of memory beyond the inputs."""
    from kernels.fft_conv.op import fft_conv

    torch.set_num_threads(1)
    torch.manual_seed(0)
    convolve = fft_conv if which == "ours" else plain_convolution
    for D, C in ((1, 16), (32, CHUNK)):
        u = torch.randn(D, 64, C, requires_grad=True)
        h, grad = torch.randn(D, C, requires_grad=True), torch.randn(D, 64, C)
        before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
        for _ in range(5):
            start = time.perf_counter()
            torch.autograd.grad(convolve(u, h), (u, h), grad)
            seconds.append(time.perf_counter() - start)
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this file in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Print the roofline and the bars."""
    bars: list[Bar] = []
    print("forward pass              bytes per element    FLOP   H100 bound  of unfused")
    print("                           unfused     fused               (ps)")
    for row in rows():
        with TrafficMode() as traffic:
            row.plain()
        unfused = traffic.num_bytes / row.num_elements
        fused = launch_bytes(row.fused()) / row.num_elements
        bound = max(fused / BANDWIDTH, row.flops / PEAK)
        limit = "bytes" if fused / BANDWIDTH >= row.flops / PEAK else "FLOPs"
        ratio = bound / (unfused / BANDWIDTH)
        print(
            f"{row.name:<24}{unfused:>10.1f}{fused:>10.2f}{row.flops:>8.0f}"
            f"{bound * 1e12:>7.2f} {limit}{ratio:>12.2f}"
        )
    os.environ["TRITON_INTERPRET"] = "1"
    for C in (64, 512, 1024, CHUNK):
        moved, error = elsewhere(interpreted_bytes, C)
        once = 4.0 + 2.0 / max(64, 16_384 // C)
        bars.append(
            Bar(f"bytes moved / read and written once, chunk {C}", moved / once, 1.15, at_most=True)
        )
        bars.append(Bar(f"bytes per element, fused, chunk {C}", moved, 6.0, at_most=True))
        bars.append(Bar(f"error in float16, chunk {C}", error, 1e-3, at_most=True))
    del os.environ["TRITON_INTERPRET"]
    # by turns, so that a busy neighbour hits both
    turns = [
        (elsewhere(time_and_memory, "plain"), elsewhere(time_and_memory, "ours")) for _ in "12"
    ]
    plain, ours = ([turn[i] for turn in turns] for i in (0, 1))
    fastest = [min(min(seconds) for seconds, _ in side) for side in (plain, ours)]
    peak = [max(memory for _, memory in side) for side in (plain, ours)]
    bars.append(Bar(f"eager autograd / ours, chunk {CHUNK}", fastest[0] / fastest[1], 1.8))
    bars.append(
        Bar(f"peak memory / eager autograd's, chunk {CHUNK}", peak[1] / peak[0], 0.6, at_most=True)
    )
    judge(bars)


if __name__ == "__main__":
    main()
