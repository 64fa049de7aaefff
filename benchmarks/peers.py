"""Every attention-free peer next to Resonance: one block around each mixer, equal everything else.

    python -m benchmarks.peers

Llama, Mamba, Mamba-2, Gated DeltaNet, RWKV-4, xLSTM, RetNet, Hyena, and Resonance as it is, with
delta heads, and with all recall keys; equal parameters (within 2%), tokenizer, order, batch and
steps. Technical documents: rates are swept until the best lies inside, then all seeds run at it.
Multi-query associative recall at growing sizes, each only for models that solved the one before;
state tracking (parity, sums modulo 3, S3), trained at 64 tokens and tested at 256. Every run is a
JSON file as soon as it has ended, and is not run again. On a CPU the loops of Mamba and RWKV over
tokens are slow: `--models` names those to train. Speeds and decoding are not compared here.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.results import ROOT
from benchmarks.harness.texts import DATA, write_small_corpus
from benchmarks.harness.thresholds import Figure, Outcome
from benchmarks.quality import plan, text
from benchmarks.quality.bench import Bench
from benchmarks.quality.stored import RESULTS

DELTA = plan.DEFAULT | {"recall_rule": "delta"}
ALL_KEYS = DELTA | {"recall_phase": "data", "recall_erase": "channel", "recall_bias": True}
# name in tables -> kind of model and changes of the plain spectral one
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Resonance": ("spectral", plan.DEFAULT),
    "Resonance, delta": ("spectral", DELTA),
    "Resonance, all recall keys": ("spectral", ALL_KEYS),
    "Llama": ("transformer", {}),
    "Mamba": ("mamba", {}),
    "Mamba-2": ("mamba-2", {}),
    "Gated DeltaNet": ("gated deltanet", {}),
    "RWKV-4": ("rwkv-4", {}),
    "xLSTM": ("xlstm", {}),
    "RetNet": ("retnet", {}),
    "Hyena": ("hyena", {}),
}
# those that the quick form goes through, without loops over tokens
QUICK_MODELS = ("Resonance, delta", "Llama", "Gated DeltaNet")
RECALL_SETTINGS = ((64, 4), (128, 8), (256, 16), (512, 64))
GROUPS = ("parity", "sum modulo 3", "S3")
TRACK_RATES = (3e-3, 1e-2)
SOLVED = 0.95


def slug(name: str) -> str:
    """A name in file names."""
    return name.lower().replace(",", "").replace(" ", "-")


def run_of(name: str, task: str, budget: plan.Budget, rate: float, seed: int) -> plan.Run:
    """A training run of a model on a task."""
    kind, changes = MODELS[name]
    on_text = not task.startswith(("mqar", "track"))
    steps = budget.steps if on_text else budget.recall_steps
    size = budget.small if on_text else "mqar"
    label = f"{slug(task)}-{slug(name)}-lr{rate:g}-seed{seed}"
    return plan.Run(label, task, kind, size, steps, rate, seed, changes)


def sweep(bench: Bench, names: list[str], corpus: str) -> dict[str, float]:
    """Each model's best learning rate, from a sweep that is extended until it lies inside."""
    budget, best = bench.budget, {}
    for name in names:
        tried, wider = set(budget.rates), 0.0
        while wider not in tried:
            tried |= {wider} - {0.0}
            runs = [run_of(name, corpus, budget, rate, budget.seeds[0]) for rate in sorted(tried)]
            bench.run(runs)
            losses = {run.rate: bench.results[run.name]["valid_loss"] for run in runs}
            best[name] = min(losses, key=losses.__getitem__)
            wider = plan.next_rate(tried, best[name])
    return best


def compare_text(bench: Bench, names: list[str], corpus: str) -> list[Figure]:
    """Losses of all models on a corpus, at each one's best rate."""
    rates, seeds = sweep(bench, names, corpus), bench.budget.seeds
    figures = []
    print(f"| {corpus} | parameters | rate | loss | ± | recalled | others |\n|" + " --- |" * 7)
    for name in names:
        runs = [run_of(name, corpus, bench.budget, rates[name], seed) for seed in seeds]
        bench.run(runs)
        results = [bench.results[run.name] for run in runs]
        means = {
            key: statistics.mean(result[key] for result in results)
            for key in ("valid_loss", "recalled_loss", "other_loss")
        }
        spread = statistics.stdev(result["valid_loss"] for result in results)
        cells = [f"{results[0]['num_parameters']:,}", f"{rates[name]:g}",
                 f"{means['valid_loss']:.4f}", f"{spread:.4f}",
                 f"{means['recalled_loss']:.4f}", f"{means['other_loss']:.4f}"]  # fmt: skip
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        figures += [
            Figure(f"{corpus}, {name}: {key}", value, "nats per token")
            for key, value in means.items()
        ]
    return figures


def best_accuracy(
    bench: Bench, name: str, task: str, rates: tuple[float, ...], key: str = "accuracy"
) -> float:
    """The best of some learning rates."""
    runs = [run_of(name, task, bench.budget, rate, bench.budget.seeds[0]) for rate in rates]
    bench.run(runs)
    return max(float(bench.results[run.name][key]) for run in runs)


def compare_tasks(bench: Bench, names: list[str], settings: int, groups: int) -> list[Figure]:
    """Accuracy in the first settings of recall and on the first groups of state tracking."""
    figures = []
    for name in names:
        for length, pairs in RECALL_SETTINGS[:settings]:
            task = f"mqar-{length}-{pairs}"
            share = best_accuracy(bench, name, task, bench.budget.recall_rates)
            title = f"recall of {pairs} pairs in {length} tokens"
            print(f"{title:<34}{name:<28}{share:.3f}", flush=True)
            figures.append(Figure(f"{title}, {name}", share, "share"))
            if share < SOLVED:
                break
        for group in GROUPS[:groups]:
            share = best_accuracy(bench, name, f"track-{group}", TRACK_RATES, "accuracy_longer")
            print(f"{group + ' at 256 tokens':<34}{name:<28}{share:.3f}", flush=True)
            figures.append(Figure(f"{group} at 256 tokens, {name}", share, "share"))
    return figures


def main() -> None:
    """Train what has no result yet, and print the tables."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "lm", help="NAME.train.jsonl.xz, …")
    parser.add_argument("--corpus", default="techdocs", help="name of the corpus")
    parser.add_argument("--models", nargs="+", help="names of models; all if not given")
    parser.add_argument("--results", type=Path, default=RESULTS.parent / "peers")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "peers", help="tokens")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="models at a time")
    arguments = parser.parse_args()
    if arguments.models is None:
        arguments.models = QUICK_MODELS if arguments.quick else [*MODELS]
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        parser.error(f"--models: expected some of {', '.join(MODELS)}, got {', '.join(unknown)}")
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            arguments.results, arguments.work = Path(folder) / "results", Path(folder) / "work"
            arguments.data, arguments.corpus = Path(folder) / "corpus", "small"
            write_small_corpus(arguments.data, "small")
            run_parsed("peers", __doc__, arguments, lambda: measure(arguments))
    run_parsed("peers", __doc__, arguments, lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> Outcome:
    """Go through both comparisons."""
    budget = plan.BUDGETS["quick" if arguments.quick else "full"]
    tokens = arguments.work / "tokens"
    corpora = text.prepare(arguments.data, [arguments.corpus], tokens, budget.megabytes)
    arguments.results.mkdir(parents=True, exist_ok=True)
    # threads of torch do not survive a fork
    context = multiprocessing.get_context("spawn")
    sizes = (1, 1) if arguments.quick else (len(RECALL_SETTINGS), len(GROUPS))
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        bench = Bench(budget, corpora, arguments.results, arguments.work, pool)
        figures = compare_tasks(bench, arguments.models, *sizes)
        figures += compare_text(bench, arguments.models, arguments.corpus)
    return Outcome("Results of all runs, each with its own commit and machine.", figures)


if __name__ == "__main__":
    main()
