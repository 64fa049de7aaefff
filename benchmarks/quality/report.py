"""Tables and figures from results: reads the JSON files only, so they can be made again."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.harness.thresholds import Figure
from benchmarks.quality.plan import (
    ABLATIONS,
    KINDS,
    PLAIN,
    RECALL_SETTINGS,
    Budget,
    ablation_name,
)
from benchmarks.quality.stored import Result

Results = dict[str, Result]
# for tables: names of corpora and kinds of models as readers know them
TITLES = {
    "techdocs": "technical documents",
    "eltec_eng": "English novels",
    "spectral": "Resonance",
    "transformer": "Llama",
}
NONE = "-"


class Report(NamedTuple):
    """Tables in Markdown, one number per cell, and figures."""

    losses: list[str]
    recall: list[str]
    ablations: list[str]
    figures: list[Figure]

    @property
    def markdown(self) -> str:
        """All tables."""
        return "\n".join([*self.losses, "", *self.recall, "", *self.ablations]) + "\n"


def make_report(
    results: Results, corpora: Sequence[str], budget: Budget, best: dict[str, dict[str, float]]
) -> Report:
    """The report of all results so far.

    Args:
        results: Results by name of the run.
        corpora: Names of corpora.
        budget: Sizes and steps.
        best: Best learning rate per corpus and kind.
    """
    losses, loss_figures = _losses(results, corpora, budget, best)
    recall, recall_figures = _recall(results)
    return Report(losses, recall, _ablations(results, budget), loss_figures + recall_figures)


def sources(results: Results) -> list[str]:
    """Commits and machines of all results."""
    return sorted({f"commit {run['commit']}, {run['machine']}" for run in results.values()})


def loss_name(corpus: str, size: str, kind: str) -> str:
    """Name of the figure that holds a mean validation loss."""
    return f"{title(corpus)}, {size} size: loss of {title(kind)}"


def title(name: str) -> str:
    """A corpus's or kind's name in tables."""
    return TITLES.get(name, name)


def _losses(
    results: Results, corpora: Sequence[str], budget: Budget, best: dict[str, dict[str, float]]
) -> tuple[list[str], list[Figure]]:
    lines = _header("corpus", "size", "model", "parameters", "steps", "learning rate", "seeds",
                    "loss", "± loss", "recalled", "others", "ms per step")  # fmt: skip
    figures = []
    for corpus in corpora:
        for size in dict.fromkeys((budget.small, budget.large)):
            means = {}
            for kind in KINDS:
                runs = _final(results, corpus, kind, size, best)
                if not runs:
                    continue
                first = runs[0]
                means[kind] = statistics.mean(run["valid_loss"] for run in runs)
                figures.append(Figure(loss_name(corpus, size, kind), means[kind], "nats per token"))
                lines.append(
                    _row(title(corpus), size, title(kind), f"{first['num_parameters']:,}",
                         str(first["steps"]), f"{first['rate']:g}", str(len(runs)),
                         f"{means[kind]:.4f}", _spread(runs, "valid_loss"),
                         *(f"{statistics.mean(run[key] for run in runs):.4f}"
                           for key in ("recalled_loss", "other_loss")),
                         f"{first['step_ms']:.0f}" if "step_ms" in first else NONE)
                )  # fmt: skip
            if len(means) == len(KINDS):
                gap = means["spectral"] - means["transformer"]
                name = f"{title(corpus)}, {size} size: Resonance's loss minus Llama's"
                figures.append(Figure(name, gap, "nats per token", limit=0.0, at_most=True))
    return lines, figures


def _recall(results: Results) -> tuple[list[str], list[Figure]]:
    lines, figures = _header("length", "pairs", "model", "accuracy"), []
    for length, pairs in RECALL_SETTINGS:
        best = {kind: _best_accuracy(results, f"mqar-{length}-{pairs}-{kind}") for kind in KINDS}
        for kind, accuracy in best.items():
            if accuracy is None:
                continue
            lines.append(_row(str(length), str(pairs), title(kind), f"{accuracy:.1%}"))
            # a task that the Transformer cannot learn in so short a time has no bar
            solvable = (best["transformer"] or 0.0) >= 0.95
            limit = 0.95 if kind == "spectral" and solvable else None
            name = f"recall of {pairs} pairs in {length} tokens: accuracy of {title(kind)}"
            figures.append(Figure(name, accuracy, "share", limit=limit))
    return lines, figures


def _ablations(results: Results, budget: Budget) -> list[str]:
    rows = {label: _ablation(results, label, "seed") for label in ABLATIONS}
    if not rows[PLAIN]:
        return []
    plain = rows[PLAIN][0]
    plain_loss = statistics.mean(run["valid_loss"] for run in rows[PLAIN])
    lines = _header("change of the plain model", "seeds", f"loss after {budget.ablation_steps}",
                    "± loss", "difference", f"loss after {budget.steps}", "parameters",
                    "time of a step")  # fmt: skip
    for label, runs in rows.items():
        if not runs:
            continue
        mean = statistics.mean(run["valid_loss"] for run in runs)
        longer = _ablation(results, label, "long")
        lines.append(
            _row(label, str(len(runs)), f"{mean:.4f}", _spread(runs, "valid_loss"),
                 f"{mean - plain_loss:+.4f}", f"{longer[0]['valid_loss']:.4f}" if longer else NONE,
                 _ratio(runs[0], plain, "num_parameters"), _ratio(runs[0], plain, "step_ms"))
        )  # fmt: skip
    return lines


def _final(
    results: Results, corpus: str, kind: str, size: str, best: dict[str, dict[str, float]]
) -> list[Result]:
    """All seeds at the best rate of the small size, or the best run of the large one."""
    prefix = f"{corpus}-{kind}-"
    runs = [run for name, run in results.items() if name.startswith(prefix) and run["size"] == size]
    large = [run for run in runs if "-large-" in run["name"]]
    if large:
        return [min(large, key=lambda run: run["valid_loss"])]
    return [run for run in runs if run["rate"] == best.get(corpus, {}).get(kind)]


def _best_accuracy(results: Results, prefix: str) -> float | None:
    accuracies = (run["accuracy"] for name, run in results.items() if name.startswith(f"{prefix}-"))
    return max(accuracies, default=None)


def _ablation(results: Results, label: str, length: str) -> list[Result]:
    prefix = f"{ablation_name(label)}-{length}"
    return [run for name, run in results.items() if name.startswith(prefix)]


def _spread(runs: list[Result], key: str) -> str:
    return f"{statistics.stdev(run[key] for run in runs):.4f}" if len(runs) > 1 else NONE


def _ratio(run: Result, plain: Result, key: str) -> str:
    return f"{run[key] / plain[key]:.2f}x" if key in run and key in plain else NONE


def _header(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
