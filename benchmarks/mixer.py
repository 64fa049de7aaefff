"""Speed of spectral mixing compared with attention and with an FFT over the whole sequence.

    python -m benchmarks.mixer

Forward and backward, batch 1, D = 512, one thread: the mixing operators of a default layer (mean
over the kinds of layers) without projections, against attention without its own. Every ratio is of
the fastest of several runs that alternate; the last column is the achieved FLOP/s over those of a
matrix product in the same run. Freed memory goes back to the system, as PyTorch does by itself;
time per token is also measured as in training, where freed memory is reused. Peak memory is that
of a fresh process, beyond what it holds before the first step.
"""

from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import fastest, in_fresh_process, resident_bytes
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.runtime.malloc import reuse_freed_memory
from spectral.config import ModelConfig
from spectral.filters.modal import ModalFilter
from spectral.layer_pattern import layer_period
from spectral.mixers.context import SequenceContext
from spectral.mixers.heads import HeadsMixer
from spectral.mixers.recall_heads import RecallControls
from spectral.modules.rotary import rotary_phases

D, HEAD_DIM = 512, 64
H = D // HEAD_DIM
CONFIG = ModelConfig(dim=D, num_heads=H)
# kinds of layers alternate: all of them are measured
LAYERS = range(layer_period(CONFIG))
NAIVE_BARS = {512: 1.67, 1_024: 2.98, 2_048: 6.60}
FLASH_BARS = {2_048: 1.2, 16_384: 8.0}
# mixing that torch.compile has compiled, as with train.compile
COMPILED_NAIVE_BARS = {512: 1.67}
COMPILED_BARS = {2_048: 0.8}
# the allocator's rounding and fragmentation are not the operator's
FLAT_BAR = 1 / 1.25


class Sizes(NamedTuple):
    """Sequence lengths in tokens, and seconds of timing per length.

    Attributes:
        lengths: Those that are timed.
        naive: The longest for naive attention.
        flash: The longest for scaled_dot_product_attention.
        compiled: Those at which compiled mixing is timed.
        flat: A short and a long one, compared by time per token.
        peaks: A short and a long one, compared by memory per token.
        seconds: Least time for all runs at one length.
    """

    lengths: tuple[int, ...]
    naive: int
    flash: int
    compiled: tuple[int, ...]
    flat: tuple[int, int]
    peaks: tuple[int, int]
    seconds: float


FULL = Sizes((512, 1_024, 2_048, 8_192, 16_384, 204_800), 2_048, 16_384, (512, 2_048),
             (8_192, 204_800), (51_200, 204_800), 6.0)  # fmt: skip
QUICK = Sizes((64, 128), 64, 128, (64,), (64, 128), (64, 128), 0.0)


def layer_mixing(T: int, layer: int, *, compiled: bool = False) -> Callable[[], None]:
    """A default layer's mixing, forward and backward, perhaps compiled by torch.compile."""
    mixer = HeadsMixer(CONFIG, layer)
    mixer.reset_parameters(D**-0.5, D**-0.5)
    z = torch.randn(1, T, 3 * D, requires_grad=True)
    controls = None
    num_recall = mixer.head_groups[1]
    if num_recall:
        log_decay = F.logsigmoid(torch.randn(1, T, num_recall) + 4.0).requires_grad_()
        controls = RecallControls(log_decay)
    context = SequenceContext(0, *rotary_phases(0, T, HEAD_DIM, 1e4, like=z), None, {})
    gate = torch.randn(1, T, D, requires_grad=True)
    grad = torch.randn(1, T, D)

    def mix(z: Tensor, controls: RecallControls | None, gate: Tensor) -> Tensor:
        qkv = mixer.short_conv(z)[0].unflatten(-1, (3, -1))
        y = mixer.mix_heads(qkv, controls, context, None)[0]
        return mixer.normalise(y, gate)

    if compiled:
        mix = torch.compile(mix, fullgraph=True, dynamic=False)
        # the first pass compiles
        mix(z, controls, gate).backward(grad)
    return lambda: mix(z, controls, gate).backward(grad)


def spectral_mixing(T: int) -> Callable[[], None]:
    """The mixing of a layer of each kind, one after the other."""
    runs = [layer_mixing(T, layer) for layer in LAYERS]

    def run() -> None:
        for layer_run in runs:
            layer_run()

    return run


def _heads(T: int) -> tuple[list[Tensor], Tensor]:
    inputs = [torch.randn(1, H, T, HEAD_DIM, requires_grad=True) for _ in range(3)]
    return inputs, torch.randn(1, H, T, HEAD_DIM)


def naive_attention(T: int) -> Callable[[], None]:
    """softmax(q k^T) v with the whole matrix."""
    (q, k, v), grad = _heads(T)
    mask = torch.full((T, T), float("-inf")).triu(1)

    def run() -> None:
        scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5 + mask
        (scores.softmax(-1) @ v).backward(grad)

    return run


def flash_attention(T: int) -> Callable[[], None]:
    """Torch's scaled_dot_product_attention, causal."""
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


def chunked_convolution(T: int) -> Callable[[], None]:
    """The same convolution by chunks and carried modes."""
    module = ModalFilter(D, CONFIG.num_modes, CONFIG.conv_chunk, CONFIG.max_time_constant)
    u, grad = torch.randn(1, D, T, requires_grad=True), torch.randn(1, D, T)

    def run() -> None:
        module(u)[0].backward(grad)

    return run


def mixing_flops(T: int) -> float:
    """Multiplications and additions of a layer's forward and backward pass, by products' sizes."""
    C, M, K = CONFIG.conv_chunk, CONFIG.num_modes, HEAD_DIM
    fft = 2.5 * 2 * C * torch.log2(torch.tensor(2.0 * C)).item() / C
    convolution = 2 * fft + 8 * M
    recall = 2 * CONFIG.recall_chunk * 2 + 4 * K
    return 3.0 * T * (D / 2) * (convolution + recall)


def matmul_rate(seconds: float) -> float:
    """FLOP/s of a large float32 matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    (best,) = fastest(lambda: torch.mm(a, b), seconds=seconds)
    return 2 * 1024**3 / best


def peak_bytes(make: Callable[[int], Callable[[], None]], T: int) -> int:
    """Peak memory of two passes beyond what was held before; in a fresh process."""
    torch.set_num_threads(1)
    before, run = resident_bytes(), make(T)
    for _ in range(2):
        run()
    return resident_bytes() - before


def reusing_seconds(T: int, seconds: float) -> float:
    """Seconds of a layer's pass with freed memory reused; in a fresh process."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    # the first runs have no freed memory to reuse
    times = (fastest(layer_mixing(T, layer), seconds=seconds, least=6) for layer in LAYERS)
    return mean(best for (best,) in times)


def time_length(T: int, sizes: Sizes, rate: float) -> list[Figure]:
    """Measure one length and print its line.

    Args:
        T: Tokens.
        sizes: Lengths up to which attention is measured.
        rate: FLOP/s of a matrix product.
    """
    rivals = {"naive attention": naive_attention} if sizes.naive >= T else {}
    rivals |= {"scaled_dot_product_attention": flash_attention} if sizes.flash >= T else {}
    kinds = [layer_mixing(T, layer) for layer in LAYERS]
    times = fastest(*kinds, *(make(T) for make in rivals.values()), seconds=sizes.seconds)
    mixing_s, rival_times = mean(times[: len(kinds)]), times[len(kinds) :]
    ratios = {name: s / mixing_s for name, s in zip(rivals, rival_times, strict=True)}
    chunked_s, whole_s = fastest(chunked_convolution(T), whole_fft(T), seconds=sizes.seconds)
    share = mixing_flops(T) / mixing_s / rate
    cells = [f"{ratios[name]:.2f}" if name in ratios else "-"
             for name in ("naive attention", "scaled_dot_product_attention")]  # fmt: skip
    print(
        f"{T:>8}{mixing_s / T * 1e6:>10.2f}{cells[0]:>8}{cells[1]:>8}{whole_s / chunked_s:>11.2f}"
        f"{share:>11.2f}"
    )
    bars = {"naive attention": NAIVE_BARS, "scaled_dot_product_attention": FLASH_BARS}
    return [
        Figure(f"time per token of mixing, {T:,} tokens", mixing_s / T * 1e6, "µs"),
        *(Figure(f"time of {name} over mixing's, {T:,} tokens", ratio, limit=bars[name].get(T))
          for name, ratio in ratios.items()),
        Figure(f"time of whole-sequence FFT over chunked convolution's, {T:,} tokens",
               whole_s / chunked_s, limit=1.0 if T >= 8_192 else None),
        Figure(f"FLOP/s of mixing over a matrix product's, {T:,} tokens", share),
    ]  # fmt: skip


def time_compiled(T: int, sizes: Sizes) -> list[Figure]:
    """Time compiled mixing next to eager mixing and naive attention, and print its line."""
    kinds = [layer_mixing(T, layer, compiled=x) for x in (True, False) for layer in LAYERS]
    *times, naive_s = fastest(*kinds, naive_attention(T), seconds=sizes.seconds)
    compiled_s, eager_s = mean(times[: len(LAYERS)]), mean(times[len(LAYERS) :])
    print(f"compiled, {T:,} tokens: {compiled_s / eager_s:.2f} of eager mixing's time, "
          f"naive attention {naive_s / compiled_s:.2f} times as long")  # fmt: skip
    return [
        Figure(f"time of compiled mixing over eager mixing's, {T:,} tokens", compiled_s / eager_s,
               limit=COMPILED_BARS.get(T), at_most=True),
        Figure(f"time of naive attention over compiled mixing's, {T:,} tokens",
               naive_s / compiled_s, limit=COMPILED_NAIVE_BARS.get(T)),
    ]  # fmt: skip


def compare_memory(sizes: Sizes) -> list[Figure]:
    """Measure peak memory and print it."""
    short, long = sizes.peaks
    per_token = {T: in_fresh_process(peak_bytes, spectral_mixing, T) / T for T in sizes.peaks}
    whole = in_fresh_process(peak_bytes, whole_fft, long)
    chunked = in_fresh_process(peak_bytes, chunked_convolution, long)
    for T, num_bytes in per_token.items():
        print(f"peak memory at {T:,} tokens: {num_bytes / 2**10:.0f} KiB/token")
    return [
        *(Figure(f"peak memory of mixing per token, {T:,} tokens", num_bytes / 2**10, "KiB")
          for T, num_bytes in per_token.items()),
        Figure(f"memory per token at {short:,} tokens over that at {long:,}",
               per_token[short] / per_token[long], limit=FLAT_BAR),
        Figure(f"memory of whole-sequence FFT over chunked convolution's, {long:,} tokens",
               whole / chunked, limit=1.0),
    ]  # fmt: skip


def compare_flat(sizes: Sizes) -> list[Figure]:
    """Measure time per token with freed memory reused, and print it."""
    short, long = sizes.flat
    times = {T: in_fresh_process(reusing_seconds, T, sizes.seconds) / T for T in sizes.flat}
    for T, seconds in times.items():
        print(f"freed memory reused, {T:,} tokens: {1e6 * seconds:.1f} us/token")
    name = f"time per token at {short:,} tokens over that at {long:,}, freed memory reused"
    return [Figure(name, times[short] / times[long], limit=FLAT_BAR)]


def measure(quick: bool) -> Outcome:
    """Measure all lengths and print the table."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # before this process grows: Linux counts its memory into the peak of those that it starts
    figures = compare_memory(sizes) + compare_flat(sizes)
    rate = matmul_rate(min(1.0, sizes.seconds))
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s")
    print(f"{'T':>8}{'us/token':>10}{'naive':>8}{'SDPA':>8}{'whole FFT':>11}{'of matmul':>11}")
    for T in sizes.lengths:
        figures += time_length(T, sizes, rate)
    for T in sizes.compiled:
        figures += time_compiled(T, sizes)
    return Outcome(
        f"Mixing of a default layer, forward and backward, D = {D}, one thread, float32.", figures
    )


if __name__ == "__main__":
    run_benchmark("mixer", __doc__, measure)
