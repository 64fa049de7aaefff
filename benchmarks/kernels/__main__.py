"""Cost of the ops in `kernels/`: bytes and FLOPs by count, time and memory on this CPU.

    python -m benchmarks.kernels

Bytes of the fused ops are those of the tensors that their launches receive; of the fused
convolution, those that its interpreted kernel loads and stores. Bytes of the unfused ones are
counted operator by operator while plain PyTorch runs. Lower bounds are those of an H100: 3.35 TB/s,
990 TFLOP/s. Times are ratios to eager autograd, alternating in the same run. No GPU is needed or
used.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import in_fresh_process, with_environment
from benchmarks.harness.thresholds import Figure, Outcome
from benchmarks.kernels.measured import interpreted_bytes, num_rows, time_and_memory
from benchmarks.kernels.roofline import (
    BANDWIDTH,
    PEAK,
    TrafficMode,
    head_bound,
    launch_bytes,
    plain_convolution,
    rows,
)
from kernels.fft_conv.op import fft_conv
from spectral.presets import GPU_CHUNK


class Sizes(NamedTuple):
    """Chunk lengths and tokens per channel.

    Attributes:
        counted: Chunk lengths of the table.
        interpreted: Chunk lengths of the interpreted kernel.
        tokens: Tokens per channel of the interpreted kernel; at least 64 rows are taken.
        timed: Chunk length that is timed.
        turns: Fresh processes for each side.
    """

    counted: tuple[int, ...]
    interpreted: tuple[int, ...]
    tokens: int
    timed: int
    turns: int


FULL = Sizes((64, 512, 1_024, 2_048, 4_096, 8_192), (64, 512, 1_024, 4_096), 16_384, 4_096, 2)
QUICK = Sizes((64,), (64,), 1_024, 4_096, 1)


def count_traffic(chunks: Sequence[int]) -> list[Figure]:
    """Count bytes and print the table of lower bounds."""
    print("forward pass              bytes per element    FLOP   H100 bound  of unfused")
    print("                           unfused     fused               (ps)")
    figures = []
    for row in rows(chunks):
        with TrafficMode() as traffic:
            row.plain()
        unfused = traffic.num_bytes / row.num_elements
        fused = launch_bytes(row.fused()) / row.num_elements
        bound_s = max(fused / BANDWIDTH, row.flops / PEAK)
        limit = "bytes" if fused / BANDWIDTH >= row.flops / PEAK else "FLOPs"
        ratio = bound_s / (unfused / BANDWIDTH)
        print(
            f"{row.name:<24}{unfused:>10.1f}{fused:>10.2f}{row.flops:>8.0f}"
            f"{bound_s * 1e12:>7.2f} {limit}{ratio:>12.2f}"
        )
        figures += [
            Figure(f"{row.name}: bytes per element, unfused", unfused, "bytes"),
            Figure(f"{row.name}: bytes per element, fused", fused, "bytes"),
            Figure(f"{row.name}: H100's lower bound over the unfused op's byte bound", ratio),
        ]
    return figures


def compare_chunks(chunks: Sequence[int]) -> list[Figure]:
    """Lower bounds of convolution heads by chunk, and the presets' chunk among them."""
    bounds = {C: head_bound(C) for C in {*chunks, GPU_CHUNK}}
    for C in sorted(bounds):
        print(f"convolution heads, chunk {C:,}: {bounds[C] * 1e12:.2f} ps per element")
    return [
        Figure("H100's lower bound of convolution heads, chunk of presets over best chunk",
               bounds[GPU_CHUNK] / min(bounds.values()), limit=1.01, at_most=True)
    ]  # fmt: skip


def interpret(sizes: Sizes) -> list[Figure]:
    """Bytes moved and error of the interpreted convolution."""
    figures = []
    for C in sizes.interpreted:
        environment = {"TRITON_INTERPRET": "1"}
        moved, error = with_environment(environment, interpreted_bytes, C, sizes.tokens)
        once = 4.0 + 2.0 / num_rows(C, sizes.tokens)
        figures += [
            Figure(f"fft_conv, chunk {C:,}: bytes moved over bytes read and written once",
                   moved / once, limit=1.15, at_most=True),
            Figure(f"fft_conv, chunk {C:,}: bytes moved per element", moved, "bytes",
                   limit=6.0, at_most=True),
            Figure(f"fft_conv, chunk {C:,}: relative error in float16", error,
                   limit=1e-3, at_most=True),
        ]  # fmt: skip
    return figures


def compare_with_autograd(C: int, turns: int) -> list[Figure]:
    """Time and memory of the reference over those of eager autograd, in alternating processes."""
    seconds: dict[str, list[float]] = {"plain": [], "op": []}
    memory: dict[str, list[float]] = {"plain": [], "op": []}
    for _ in range(turns):
        for name, convolve in (("plain", plain_convolution), ("op", fft_conv)):
            run_seconds, run_mib = in_fresh_process(time_and_memory, convolve, C)
            seconds[name].append(run_seconds)
            memory[name].append(run_mib)
    return [
        Figure(f"fft_conv, chunk {C:,}: time of eager autograd over ours",
               min(seconds["plain"]) / min(seconds["op"]), limit=1.8),
        Figure(f"fft_conv, chunk {C:,}: peak memory over eager autograd's",
               max(memory["op"]) / max(memory["plain"]), limit=0.6, at_most=True),
    ]  # fmt: skip


def measure(quick: bool) -> Outcome:
    """Count, interpret and time."""
    sizes = QUICK if quick else FULL
    figures = count_traffic(sizes.counted) + compare_chunks(sizes.counted) + interpret(sizes)
    figures += compare_with_autograd(sizes.timed, sizes.turns)
    return Outcome("Forward passes in float16; forward and backward on CPU in float32.", figures)


if __name__ == "__main__":
    run_benchmark("kernels", __doc__, measure)
