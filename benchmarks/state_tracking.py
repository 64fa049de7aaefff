"""State tracking: what each kind of recall head can count, trained at 64 tokens, tested at 256.

    python -m benchmarks.state_tracking

After every token of a sequence, its state is to be named: the sum of all digits so far modulo 2
(parity) or 3, or the product of all permutations of three things so far (S3, which does not
commute). Two layers of recall heads, dim 64, AdamW, one seed; accuracy over all tokens, and the
share that chance gives. States that only decay cannot count parity (Grazzi et al. 2024, arXiv
2411.12537); a state that a write can flip can.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from benchmarks.quality.groups import GROUPS, VOCAB_SIZE, examples
from benchmarks.quality.models import SIZES, Spectral
from benchmarks.quality.training import accuracy, train

KINDS: dict[str, dict[str, object]] = {
    "decay": {},
    "decay, phases from data": {"recall_phase": "data"},
    "delta": {"recall_rule": "delta"},
    "delta, phases from data": {"recall_rule": "delta", "recall_phase": "data"},
}
RATE = 3e-3
# of numbers that no training step is drawn from
TEST_SEED = 10**9


class Sizes(NamedTuple):
    """Training steps, rows of a batch, lengths in training and in the longer test, test rows."""

    steps: int
    rows: int
    length: int
    longer: int
    test_rows: int


FULL = Sizes(250, 32, 64, 256, 64)
QUICK = Sizes(2, 2, 8, 16, 2)
# accuracy at the longer length
BARS = {("parity", "delta"): 0.95}
AT_MOST = {("parity", "decay"): 0.75}


def trained(group: str, changes: dict[str, object], sizes: Sizes) -> Spectral:
    """A model of two layers of recall heads, trained on a group."""
    torch.manual_seed(0)
    model = Spectral(SIZES["mqar"], VOCAB_SIZE, sizes.longer, {"conv_heads": (0,)} | changes)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in count():
            yield examples(group, sizes.rows, sizes.length, seed=step)

    train(model, batches(), sizes.steps, RATE)
    return model


def track(group: str, kind: str, sizes: Sizes) -> list[Figure]:
    """Train one kind of head on one group, test it, and print both accuracies."""
    model = trained(group, KINDS[kind], sizes)
    same, longer = (
        accuracy(model, *examples(group, sizes.test_rows, length, TEST_SEED))
        for length in (sizes.length, sizes.longer)
    )
    chance = 1 / len(GROUPS[group])
    print(f"{group:<14}{kind:<26}{same:>8.3f}{longer:>8.3f}   chance {chance:.3f}", flush=True)
    name, key = f"{group}, {kind}: accuracy at", (group, kind)
    limit = BARS.get(key, AT_MOST.get(key))
    return [
        Figure(f"{name} {sizes.length} tokens, as trained", same, "share"),
        Figure(f"{name} {sizes.longer} tokens", longer, "share", limit, at_most=key in AT_MOST),
    ]


def measure(quick: bool) -> Outcome:
    """Train and test every kind of head on every group."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    print(f"{'task':<14}{'recall heads':<26}{sizes.length:>8}{sizes.longer:>8}")
    figures = [figure for group in GROUPS for kind in KINDS for figure in track(group, kind, sizes)]
    return Outcome("Two layers of recall heads, dim 64, one seed, one thread.", figures)


if __name__ == "__main__":
    run_benchmark("state_tracking", __doc__, measure)
