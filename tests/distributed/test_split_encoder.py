"""A bidirectional model split over tensor or sequence ranks: loss and gradients of one device."""

from pathlib import Path

import pytest

from tests.distributed.features import EVERYTHING, GATES, RECALL
from tests.distributed.ranks import run_ranks
from tests.distributed.test_split_model import SHARDED, compare

ENCODER: dict[str, object] = {"causal": False}
FFT: dict[str, object] = {"mixers": ("fft",), "fft": {"chunk": 16, "direct": 8}}
CASES: dict[str, dict[str, object]] = {
    name: ENCODER | model
    for name, model in {
        "plain": {},
        "convolution": {"conv_heads": (4,)},
        "recall": {"conv_heads": (0,)},
        "every recall key": RECALL,
        "everything": EVERYTHING,
        "fft": FFT,
        "gated fft": GATES | FFT,
        "wavelet": {"mixers": ("wavelet",)},
        "gated wavelet": GATES | {"mixers": ("wavelet",)},
        "classes": {"classes": 5},
        "maximum": {"classes": 5, "pooling": "max"},
        "first token": {"classes": 5, "pooling": "cls", **EVERYTHING},
        "several labels": {"classes": 5, "multi_label": True},
    }.items()
}
CASES["causal classes"] = {"classes": 5}
CASES["pairs"] = {"source_layers": 2}
CASES["pairs of ffts"] = {"source_layers": 1, "mixers": ("fft",)}
CLASSES = [name for name in CASES if "class" in name or "label" in name]


def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    every = list(CASES)
    layouts = [
        ({"tensor": 2}, every),
        ({"sequence": 2}, every),
        (SHARDED, ["plain", "gated fft", *CLASSES]),
    ]
    run_ranks(compare, 2, tmp_path, CASES, layouts)


@pytest.mark.slow
def test_four_ranks_compute_what_one_does(tmp_path: Path) -> None:
    some = [
        "everything",
        "every recall key",
        "gated fft",
        "gated wavelet",
        "maximum",
        "several labels",
    ]
    both: dict[str, int] = {"tensor": 2, "sequence": 2}
    layouts = [
        ({"sequence": 4}, [*some, "pairs"]),
        (SHARDED | {"sequence": 2}, some),
        (both, ["pairs"]),
    ]
    run_ranks(compare, 4, tmp_path, CASES, layouts)
