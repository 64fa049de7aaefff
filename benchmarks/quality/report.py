"""From results to a table and a plot: reads the JSON files only, so it can be made again."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib
from benchmarks.harness.thresholds import Figure

from benchmarks.quality.plan import ABLATIONS, KINDS, PLAIN, RECALL_SETTINGS, Budget, ablation_name

matplotlib.use("Agg")
from matplotlib import pyplot

Results = dict[str, dict[str, Any]]


def table(
    results: Results, corpora: list[str], budget: Budget, best: dict[str, dict[str, float]]
) -> tuple[str, list[Bar]]:
    """Markdown (losses with the spread over seeds, recall, ablations) and the bars."""
    sources = sorted({f"commit {run['commit']}, {run['machine']}" for run in results.values()})
    lines = [
        f"{'; '.join(sources)}. Validation loss in nats per token.",
        "",
        "| corpus | size | model | parameters | loss | recalled | other tokens | ms per step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    bars = []
    for corpus in corpora:
        for size in (
            (budget.small, budget.large) if budget.large != budget.small else (budget.small,)
        ):
            means = {}
            for kind in KINDS:
                runs = _final(results, corpus, kind, size, best)
                if not runs:
                    continue
                means[kind] = statistics.mean(run["valid_loss"] for run in runs)
                cells = [_mean_and_spread([run[key] for run in runs]) for key in
                         ("valid_loss", "recalled_loss", "other_loss")]  # fmt: skip
                lines.append(
                    f"| {corpus} | {size} | {kind} | {runs[0]['num_parameters']:,} | "
                    f"{' | '.join(cells)} | {_time(runs[0])} |"
                )
            if len(means) == len(KINDS):
                gap = means["spectral"] - means["transformer"]
                bars.append(
                    Bar(f"{corpus}, {size}: loss minus the Transformer's", gap, 0.0, at_most=True)
                )
    lines += ["", "| recall task | model | accuracy |", "| --- | --- | --- |"]
    for length, pairs in RECALL_SETTINGS:
        found = {kind: _best_accuracy(results, f"mqar-{length}-{pairs}-{kind}") for kind in KINDS}
        lines += [f"| length {length}, {pairs} pairs | {kind} | {found[kind]:.1%} |"
                  for kind in KINDS if found[kind] is not None]  # fmt: skip
        if None not in found.values() and found["transformer"] >= 0.95:
            bars.append(Bar(f"recall ({length}, {pairs}): accuracy", found["spectral"], 0.95))
    lines += ["", *_ablation_lines(results, budget)]
    return "\n".join(lines) + "\n", bars


def plot(results: Results, corpora: list[str], path: Path) -> None:
    """Training loss over tokens of every text run, a panel per corpus."""
    figure, axes = pyplot.subplots(1, len(corpora), figsize=(6 * len(corpora), 4), squeeze=False)
    for axis, corpus in zip(axes[0], corpora, strict=True):
        for kind, colour in zip(KINDS, ("tab:blue", "tab:orange"), strict=True):
            for name, run in results.items():
                if not name.startswith(f"{corpus}-{kind}-"):
                    continue
                part = run["num_tokens"] / len(run["losses"])
                tokens = [part * (i + 1) / 1e6 for i in range(len(run["losses"]))]
                style = "--" if "-large-" in name else "-"
                axis.plot(tokens, run["losses"], style, color=colour, alpha=0.6, label=kind)
        handles, labels = axis.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axis.legend(once.values(), once.keys())
        axis.set(title=corpus, xlabel="million tokens", ylabel="training loss, nats per token")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _final(
    results: Results, corpus: str, kind: str, size: str, best: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    prefix = f"{corpus}-{kind}-"
    runs = [run for name, run in results.items() if name.startswith(prefix) and run["size"] == size]
    large = [run for run in runs if "-large-" in run["name"]]
    if large:
        return [min(large, key=lambda run: run["valid_loss"])]
    return [run for run in runs if run["rate"] == best.get(corpus, {}).get(kind)]


def _mean_and_spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{mean:.4f}"


def _best_accuracy(results: Results, prefix: str) -> float | None:
    found = [run["accuracy"] for name, run in results.items() if name.startswith(prefix + "-")]
    return max(found, default=None)


def _ablation_lines(results: Results, budget: Budget) -> list[str]:
    rows = {label: _ablation(results, label, "seed") for label in ABLATIONS}
    if not rows[PLAIN]:
        return []
    plain = rows[PLAIN][0]
    usual = statistics.mean(run["valid_loss"] for run in rows[PLAIN])
    lines = [
        f"| change of the plain model | seeds | loss after {budget.ablation_steps} steps | "
        f"difference | after {budget.steps} | parameters | time of a step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, runs in rows.items():
        if not runs:
            continue
        losses = [run["valid_loss"] for run in runs]
        longer = [f"{run['valid_loss']:.4f}" for run in _ablation(results, label, "long")]
        lines.append(
            f"| {label} | {len(runs)} | {_mean_and_spread(losses)} | "
            f"{statistics.mean(losses) - usual:+.4f} | {''.join(longer)} | "
            f"{_ratio(runs[0], plain, 'num_parameters')} | "
            f"{_ratio(runs[0], plain, 'step_ms')} |"
        )
    return lines


def _ablation(results: Results, label: str, length: str) -> list[dict[str, Any]]:
    prefix = f"{ablation_name(label)}-{length}"
    return [run for name, run in results.items() if name.startswith(prefix)]


def _time(run: dict[str, Any]) -> str:
    return f"{run['step_ms']:.0f}" if "step_ms" in run else "not measured"


def _ratio(run: dict[str, Any], plain: dict[str, Any], key: str) -> str:
    if key not in plain:
        return "not measured"
    # what is the plain model's by its nature has no measurement of its own
    return f"{run[key] / plain[key]:.2f}x" if key in run else "as the plain model"
