"""The plot of training losses."""

from pathlib import Path

import matplotlib

from benchmarks.quality.plan import KINDS
from benchmarks.quality.stored import Result

matplotlib.use("Agg")
from matplotlib import pyplot


def plot_losses(results: dict[str, Result], corpora: list[str], path: Path) -> None:
    """Write a plot of every text run's training loss over tokens, with a panel per corpus."""
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
        unique = dict(zip(labels, handles, strict=True))
        axis.legend(unique.values(), unique.keys())
        axis.set(title=corpus, xlabel="million tokens", ylabel="training loss, nats per token")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
