"""Runs of the quality benchmark, as pure functions of a budget (imports no torch).

A later stage may depend on results of an earlier one: learning rates are chosen by a sweep.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from spectral.config import ModelConfig
from spectral.gates.keys import SELECTION_PARTS
from spectral.layer_pattern import head_mixture

CORPORA = ("techdocs", "eltec_eng")
KINDS = ("spectral", "transformer")
SPLITS = ("train", "valid")


class Budget(NamedTuple):
    """Sizes and steps of all runs. `full` takes about six hours on two cores."""

    megabytes: float
    batch: int
    length: int
    small: str
    large: str
    steps: int
    large_steps: int
    ablation_steps: int
    recall_steps: int
    recall_batch: int
    # the plain model's best learning rate in a sweep
    ablation_rate: float
    rates: tuple[float, ...]
    recall_rates: tuple[float, ...]
    seeds: tuple[int, ...]


BUDGETS = {
    "full": Budget(
        megabytes=30.0,
        batch=8,
        length=512,
        small="small",
        large="large",
        steps=700,
        large_steps=500,
        ablation_steps=350,
        recall_steps=5_000,
        recall_batch=64,
        ablation_rate=8e-3,
        rates=(4e-3, 8e-3, 16e-3),
        recall_rates=(3e-3, 1e-2),
        seeds=(0, 1, 2),
    ),
    "quick": Budget(
        megabytes=0.2,
        batch=2,
        length=64,
        small="mini",
        large="mini",
        steps=4,
        large_steps=3,
        ablation_steps=3,
        recall_steps=4,
        recall_batch=4,
        ablation_rate=1e-3,
        rates=(1e-3, 3e-3),
        recall_rates=(1e-3,),
        seeds=(0, 1),
    ),
}
NUM_CONFIRMED = 5
PLAIN = "plain"
# shares of the small size's best rate: larger models need smaller ones; the Transformer has two
LARGE_RATES = {"spectral": (1 / 2,), "transformer": (1 / 2, 1 / 4)}
RECALL_SETTINGS = ((64, 4), (128, 8))

_FFT: dict[str, Any] = {"mixers": ("heads", "fft"), "fft": {"chunk": 128}}


def _selection_without(part: str) -> dict[str, Any]:
    parts = tuple(name for name in SELECTION_PARTS if name != part)
    return {"gates": {"selection": True, "selection_parts": parts}}


# the default that the ablations led to, as changes of the plain model
DEFAULT: dict[str, Any] = {"conv_heads": head_mixture(ModelConfig())}

# changes of the plain model; None changes the code, not the configuration
ABLATIONS: dict[str, dict[str, Any] | None] = {
    PLAIN: {},
    "B1 band gates": {"gates": {"bands": True}},
    "B2 soft thresholds": {"gates": {"soft_threshold": True}},
    "B3 phase functions": {"gates": {"phase_functions": True}},
    "B4 cross-head network": {"gates": {"cross_head": True}},
    "B5 entropy loss 0.01": {"gates": {"entropy_weight": 0.01}},
    "B6 frequency dropout 0.1": {"gates": {"frequency_dropout": 0.1}},
    "B7 spectral residual, with B1": {"gates": {"bands": True, "residual": True}},
    "B8 magnitude mixing": {"gates": {"magnitude_mixing": True}},
    # without a gate the read-out equals the carried state, and the loss is zero
    "B10 consistency loss 0.1, with B1": {"gates": {"bands": True, "consistency_weight": 0.1}},
    "C adaptive selection": {"gates": {"selection": True}},
    "C without C1 importance network": _selection_without("importance"),
    "C without C2 scales": _selection_without("scales"),
    "C without C3 Gumbel noise": _selection_without("noise"),
    "C without C4 patterns and context": _selection_without("context"),
    "C without C5 adaptive share": _selection_without("adaptive_share"),
    "C without C6 head ranges": _selection_without("head_ranges"),
    "A1-A4 FFT in every other layer": _FFT,
    "A without A3 bands": _FFT | {"fft": {"chunk": 128, "bands": 1}},
    "A without A4 queries and keys": _FFT | {"fft": {"chunk": 128, "fusion_dim": 1}},
    "A5 wavelets in every other layer": {"mixers": ("heads", "wavelet")},
    "D2 no rotary phases": None,
    "D3 frequency feed-forward": {"feed_forward": "frequency"},
    "D5 harmonic embedding": {"embedding": "harmonic"},
    "convolution heads only": {"conv_heads": (4,)},
    "recall heads only": {"conv_heads": (0,)},
    "layers by turns": {"conv_heads": (4, 0)},
    "layers by turns, harmonic embedding": {"conv_heads": (4, 0), "embedding": "harmonic"},
}


def _changes(kind: str) -> dict[str, Any]:
    return DEFAULT if kind == "spectral" else {}


class Run(NamedTuple):
    """Training run; its name is the name of its result file."""

    name: str
    task: str
    kind: str
    size: str
    steps: int
    rate: float
    seed: int
    changes: dict[str, Any]
    rotary: bool = True


def swept(budget: Budget, corpus: str, kind: str, rate: float, seed: int) -> Run:
    """A learning rate of a sweep, or another seed at the best one."""
    name = f"{corpus}-{kind}-lr{rate:g}-seed{seed}"
    return Run(name, corpus, kind, budget.small, budget.steps, rate, seed, _changes(kind))


def next_rate(tried: Collection[float], best: float) -> float:
    """Half or twice the best rate if it is the smallest or the largest; otherwise itself."""
    if best == min(tried):
        return best / 2
    return best * 2 if best == max(tried) else best


def repeats(budget: Budget, corpus: str, rates: dict[str, float]) -> list[Run]:
    """The other seeds at each kind's best rate, and the large size at parts of it."""
    runs, first = [], budget.seeds[0]
    for kind in KINDS:
        for seed in budget.seeds[1:]:
            runs.append(swept(budget, corpus, kind, rates[kind], seed))
        for part in LARGE_RATES[kind]:
            rate = rates[kind] * part
            name = f"{corpus}-{kind}-large-lr{rate:g}-seed{first}"
            size, steps = budget.large, budget.large_steps
            runs.append(Run(name, corpus, kind, size, steps, rate, first, _changes(kind)))
    return runs


def ablation(budget: Budget, corpus: str, label: str, seed: int) -> Run:
    """A change of the plain model."""
    changes = ABLATIONS[label]
    name = f"{ablation_name(label)}-seed{seed}"
    steps, rate, rotary = budget.ablation_steps, budget.ablation_rate, changes is not None
    return Run(name, corpus, "spectral", budget.small, steps, rate, seed, changes or {}, rotary)


def ablation_name(label: str) -> str:
    """Common beginning of the names of an ablation's runs."""
    return f"ablation-{label.lower().replace(' ', '-').replace(',', '')}"


def ablations(budget: Budget, corpus: str) -> list[Run]:
    """Every change by itself with one seed, and the plain model with all: its spread is chance."""
    first, *others = budget.seeds
    return [
        *(ablation(budget, corpus, PLAIN, seed) for seed in others),
        *(ablation(budget, corpus, label, first) for label in ABLATIONS),
    ]


def confirmations(budget: Budget, corpus: str, losses: dict[str, float]) -> list[Run]:
    """The changes with the smallest losses: with the other seeds, and for as many steps as a sweep.

    An early gain may not last, so the plain model is trained for as many steps too.
    """
    labels = sorted(set(losses) - {PLAIN}, key=losses.__getitem__)[:NUM_CONFIRMED]
    first, *others = budget.seeds
    repeated = [ablation(budget, corpus, label, seed) for label in labels for seed in others]
    longer = [
        ablation(budget, corpus, label, first)._replace(
            name=f"{ablation_name(label)}-long-seed{first}", steps=budget.steps
        )
        for label in (PLAIN, *labels)
    ]
    return repeated + longer


def recall(budget: Budget, length: int, num_pairs: int) -> list[Run]:
    """Multi-query associative recall: both kinds, every rate."""
    return [
        Run(f"mqar-{length}-{num_pairs}-{kind}-lr{rate:g}", f"mqar-{length}-{num_pairs}", kind,
            "mqar", budget.recall_steps, rate, budget.seeds[0], _changes(kind))
        for kind in KINDS
        for rate in budget.recall_rates
    ]  # fmt: skip
