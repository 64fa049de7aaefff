"""How fast is spectral mixing against attention and against a whole-sequence FFT?

    python benchmarks/mixer.py

Forward and backward, batch 1, D = 512, one thread, the mixing operators of a default layer (the
mean of its two kinds) without projections against attention without its own. Every figure is a
ratio of the fastest of several interleaved runs; the last column is achieved FLOP/s over a matrix
product's in the same run. Freed memory goes back to the system as PyTorch does by itself; time per
token is also measured as in training, where it is reused. Peak memory is that of processes of their
own, beyond what they hold before the first step.
Prints a line per bar and exits with 1 if one falls short.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import mean

import torch
import torch.nn.functional as F
from bars import Bar, judge
from torch import Tensor

from pretrain.runtime.malloc import reuse_freed_memory
from spectral.config import ModelConfig
from spectral.layer_pattern import layer_period
from spectral.mixers.context import SequenceContext
from spectral.mixers.heads import HeadsMixer
from spectral.modules.rotary import rotary_phases

D, HEAD_DIM = 512, 64
H = D // HEAD_DIM
CONFIG = ModelConfig(dim=D, num_heads=H)
# layers take turns: all kinds of them are measured
LAYERS = range(layer_period(CONFIG))
NAIVE_BARS = {512: 1.67, 1_024: 2.98, 2_048: 6.60}
FLASH_BARS = {2_048: 1.2, 16_384: 8.0}
LENGTHS = (512, 1_024, 2_048, 8_192, 16_384, 204_800)
PEAK_LENGTHS = (51_200, 204_800)


def layer_mixing(T: int, layer: int) -> Callable[[], None]:
    """A default layer's mixing, forward and backward."""
    mixer = HeadsMixer(CONFIG, layer)
    mixer.reset_parameters(D**-0.5, D**-0.5)
    z = torch.randn(1, T, 3 * D, requires_grad=True)
    decay = None
    if mixer.num_recall:
        decay = F.logsigmoid(torch.randn(1, T, mixer.num_recall) + 4.0).requires_grad_()
    context = SequenceContext(0, *rotary_phases(0, T, HEAD_DIM, 1e4, like=z), None, {})
    gate = torch.randn(1, T, D, requires_grad=True)
    grad = torch.randn(1, T, D)

    def run() -> None:
        mixer.normalise(mixer.mix(z, decay, context)[0], gate).backward(grad)

    return run


def spectral_mixing(T: int) -> Callable[[], None]:
    """The mixing of a layer of each kind, one after the other."""
    runs = [layer_mixing(T, layer) for layer in LAYERS]

    def run() -> None:
        for one in runs:
            one()

    return run


def _heads(T: int) -> tuple[list[Tensor], Tensor]:
    return [torch.randn(1, H, T, HEAD_DIM, requires_grad=True) for _ in range(3)], torch.randn(
        1, H, T, HEAD_DIM
    )


def naive_attention(T: int) -> Callable[[], None]:
    """softmax(q k^T) v with the whole matrix."""
    (q, k, v), grad = _heads(T)
    mask = torch.full((T, T), float("-inf")).triu(1)

    def run() -> None:
        scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5 + mask
        (scores.softmax(-1) @ v).backward(grad)

    return run


def flash_attention(T: int) -> Callable[[], None]:
    """torch's scaled_dot_product_attention, causal."""
    (q, k, v), grad = _heads(T)
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(grad)


def whole_fft(T: int) -> Callable[[], None]:
    """A causal convolution of all channels by one FFT over the whole sequence."""
    u, h = (torch.randn(D, T, requires_grad=True) for _ in range(2))
    grad = torch.randn(D, T)

    def run() -> None:
        spectrum = torch.fft.rfft(u, n=2 * T) * torch.fft.rfft(h, n=2 * T)
        torch.fft.irfft(spectrum, n=2 * T)[:, :T].backward(grad)

    return run


def convolution_heads(T: int) -> Callable[[], None]:
    """The same convolution by chunks and carried modes."""
    from spectral.filters.modal import ModalFilter

    module = ModalFilter(D, CONFIG.num_modes, CONFIG.conv_chunk, CONFIG.max_time_constant)
    u, grad = torch.randn(1, D, T, requires_grad=True), torch.randn(1, D, T)

    def run() -> None:
        module(u)[0].backward(grad)

    return run


PEAKS = {"--peak": spectral_mixing, "--chunked": convolution_heads, "--whole": whole_fft}


def fastest(*runs: Callable[[], None], seconds: float = 6.0, least: int = 2) -> list[float]:
    """The shortest time of each, by turns, so that a busy neighbour hits all of them."""
    times: list[list[float]] = [[] for _ in runs]
    begin = time.perf_counter()
    while len(times[0]) < least or time.perf_counter() - begin < seconds:
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [min(found) for found in times]


def mixing_flops(T: int) -> float:
    """Multiplications and additions of a layer's forward and backward pass, by products' sizes."""
    C, M, K = CONFIG.conv_chunk, CONFIG.num_modes, HEAD_DIM
    fft = 2.5 * 2 * C * torch.log2(torch.tensor(2.0 * C)).item() / C
    convolution = 2 * fft + 8 * M
    recall = 2 * CONFIG.recall_chunk * 2 + 4 * K
    return 3.0 * T * (D / 2) * (convolution + recall)


def matmul_rate() -> float:
    """FLOP/s of a large float32 matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    (seconds,) = fastest(lambda: torch.mm(a, b), seconds=1.0)
    return 2 * 1024**3 / seconds


def resident_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alone(what: str, T: int) -> float:
    """Measure one length in a process of its own."""
    command = [sys.executable, __file__, what, str(T)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(make: Callable[[int], Callable[[], None]], T: int) -> None:
    """Run twice and print the bytes that it took at most."""
    before, run = resident_bytes(), make(T)
    for _ in range(2):
        run()
    print(resident_bytes() - before)


def print_time(T: int) -> None:
    """Print the time of a layer's pass in seconds, with freed memory reused."""
    reuse_freed_memory()
    # the first runs find no memory that could be reused
    print(mean(best for layer in LAYERS for best in fastest(layer_mixing(T, layer), least=6)))


def main() -> None:
    """Print the table and the bars, or the memory of one length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, operator in PEAKS.items():
        parser.add_argument(
            name, type=int, help=f"print the most bytes that {operator.__name__} takes"
        )
    parser.add_argument("--time", type=int, help="print this length's seconds, memory reused")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shows = {name: partial(print_peak, make) for name, make in PEAKS.items()}
    for name, show in (shows | {"--time": print_time}).items():
        length = getattr(arguments, name[2:])
        if length is not None:
            show(length)
            return
    torch.manual_seed(0)
    # before this process grows: Linux counts it into the peak of those that it starts
    peaks = {T: alone("--peak", T) for T in PEAK_LENGTHS}
    whole, chunked = (alone(name, PEAK_LENGTHS[-1]) for name in ("--whole", "--chunked"))
    # and before it holds what these need
    reusing = {T: alone("--time", T) / T for T in (8_192, 204_800)}
    rate, per_token = matmul_rate(), {}
    bars: list[Bar] = []
    print(f"{'T':>8}{'us/token':>10}{'naive':>8}{'SDPA':>8}{'whole FFT':>11}{'of matmul':>11}")
    for T in LENGTHS:
        rivals = {"naive": naive_attention} if T <= 2_048 else {}
        rivals |= {"SDPA": flash_attention} if T <= 16_384 else {}
        kinds = [layer_mixing(T, layer) for layer in LAYERS]
        seconds = fastest(*kinds, *(make(T) for make in rivals.values()))
        ours, theirs = mean(seconds[: len(kinds)]), seconds[len(kinds) :]
        ratio = {name: other / ours for name, other in zip(rivals, theirs, strict=True)}
        own, other = fastest(convolution_heads(T), whole_fft(T))
        ratio["FFT"] = other / own
        per_token[T] = ours / T
        cells = [f"{ratio[n]:.2f}" if n in ratio else "-" for n in ("naive", "SDPA", "FFT")]
        share = mixing_flops(T) / ours / rate
        print(
            f"{T:>8}{ours / T * 1e6:>10.2f}{cells[0]:>8}{cells[1]:>8}{cells[2]:>11}{share:>11.2f}"
        )
        for name, table in (("naive", NAIVE_BARS), ("SDPA", FLASH_BARS)):
            if T in table:
                bars.append(Bar(f"{name} attention / ours at {T}", ratio[name], table[T]))
        if T >= 8_192:
            bars.append(Bar(f"whole FFT / chunked convolution at {T}", ratio["FFT"], 1.0))
    print(f"time per token at 8,192 / at 204,800: {per_token[8_192] / per_token[204_800]:.2f}")
    microseconds = ", ".join(f"{1e6 * s:.1f} us/token at {T}" for T, s in reusing.items())
    print(f"freed memory reused: {microseconds}")
    flat = reusing[8_192] / reusing[204_800]
    bars.append(Bar("time per token at 8,192 / at 204,800, memory reused", flat, 1 / 1.25))
    print(
        "peak memory: "
        + ", ".join(f"{b / T / 2**10:.0f} KiB/token at {T}" for T, b in peaks.items())
    )
    less, more = (peaks[T] / T for T in PEAK_LENGTHS)
    # the allocator's rounding and fragmentation are not the operator's
    bars.append(Bar("memory per token at 51,200 / at 204,800", less / more, 1 / 1.25))
    bars.append(
        Bar(
            f"memory of whole FFT / chunked convolution at {PEAK_LENGTHS[-1]}", whole / chunked, 1.0
        )
    )
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s")
    judge(bars)


if __name__ == "__main__":
    main()
