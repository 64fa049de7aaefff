"""Cost of a delta layer next to a recall layer with decay alone.

    python -m benchmarks.recall_rules

Forward and backward of one layer of recall heads, batch 1, D = 512, heads of 64 channels, one
thread, float32; the layer with its projections (all that a block has besides the feed-forward), and
its mixing alone. Decoding steps are timed without gradients, after 100 and after 100,000 positions.
Every ratio is of the fastest of several runs that alternate.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import fastest
from benchmarks.harness.thresholds import Figure, Outcome
from spectral.config import ModelConfig
from spectral.layout import SINGLE_DEVICE
from spectral.lm import LMState, SpectralLM
from spectral.mixers.context import SequenceContext, sequence_context
from spectral.mixers.heads import HeadsMixer

D, HEAD_DIM = 512, 64
RULES: dict[str, dict[str, object]] = {
    "decay": {},
    "delta": {"recall_rule": "delta"},
    "delta, phases from data": {"recall_rule": "delta", "recall_phase": "data"},
}
LAYER_BARS = {("delta", 2_048): 1.5}
FLAT_BAR = 1.25


def _mixer(changes: dict[str, object], T: int) -> tuple[HeadsMixer, SequenceContext]:
    config = ModelConfig.model_validate(
        {"dim": D, "num_heads": D // HEAD_DIM, "conv_heads": (0,)} | changes
    )
    mixer = HeadsMixer(config, 0)
    mixer.reset_parameters(D**-0.5, D**-0.5)
    return mixer, sequence_context(config, SINGLE_DEVICE, torch.empty(1, 1), 0, T, None)


def layer(changes: dict[str, object], T: int) -> Callable[[], None]:
    """A layer with its projections, forward and backward."""
    mixer, context = _mixer(changes, T)
    x, grad = torch.randn(1, T, D, requires_grad=True), torch.randn(1, T, D)
    return lambda: mixer(x, context)[0].backward(grad)


def mixing(changes: dict[str, object], T: int) -> Callable[[], None]:
    """The same between its projections."""
    mixer, context = _mixer(changes, T)
    z, x = torch.randn(1, T, 3 * D, requires_grad=True), torch.randn(1, T, D)
    gate, grad = torch.randn(1, T, D, requires_grad=True), torch.randn(1, T, D)

    def run() -> None:
        y: Tensor = mixer.mix(z, x, context)[0]
        mixer.normalise(y, gate).backward(grad)

    return run


def decoding(changes: dict[str, object], position: int) -> Callable[[], None]:
    """A decoding step of a model of two layers."""
    values = {"vocab_size": 256, "dim": D, "num_layers": 2, "num_heads": D // HEAD_DIM}
    torch.manual_seed(0)
    model = SpectralLM(ModelConfig.model_validate(values | {"conv_heads": (0,)} | changes)).eval()
    with torch.no_grad():
        _, state = model.prefill(torch.zeros(1, 8, dtype=torch.long))
    later = LMState(position, state.layers)

    @torch.no_grad()
    def run() -> None:
        model.step(torch.zeros(1, dtype=torch.long), later)

    return run


def compare(
    what: str, make: Callable[[dict[str, object], int], Callable[[], None]], T: int, seconds: float
) -> list[Figure]:
    """Time a form of every rule at one length, and print the ratios."""
    first, *others = fastest(*(make(changes, T) for changes in RULES.values()), seconds=seconds)
    figures = []
    for name, time_s in zip(list(RULES)[1:], others, strict=True):
        limit = LAYER_BARS.get((name, T)) if what == "layer" else None
        title = f"time of a {what} with {name} over one with decay, {T:,} tokens"
        figures.append(Figure(title, time_s / first, limit=limit, at_most=True))
        print(f"{what:<10}{T:>8}  {name:<26}{time_s * 1e3:>8.1f} ms, {time_s / first:.2f} of decay")
    return figures


def measure(quick: bool) -> Outcome:
    """Time layers, their mixing, and decoding."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lengths, seconds = ((128,), 0.0) if quick else ((512, 2_048, 16_384), 6.0)
    forms = {"layer": layer, "mixing": mixing}
    figures = [
        figure
        for T in lengths
        for what, make in forms.items()
        for figure in compare(what, make, T, seconds)
    ]
    near, far = fastest(
        *(decoding(RULES["delta"], position) for position in (100, 100_000)), seconds=seconds
    )
    print(f"decoding with delta: {near * 1e3:.2f} ms at 100, {far * 1e3:.2f} ms at 100,000")
    figures.append(
        Figure("time of a delta step at 100,000 positions over one at 100", far / near,
               limit=FLAT_BAR, at_most=True)
    )  # fmt: skip
    return Outcome("A layer of 8 recall heads of 64 channels, D = 512, one thread.", figures)


if __name__ == "__main__":
    run_benchmark("recall_rules", __doc__, measure)
