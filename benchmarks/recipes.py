"""Recipes of training: optimizers and schedules at equal tokens, each at its best learning rate.

    python -m benchmarks.recipes

Runs of `resonance pretrain` on the technical documents, with the main job's model of 1.4M
parameters: a sweep of learning rates for each optimizer; every optimizer with every schedule, three
seeds each, at its best rate; then Muon with one part changed at a time. About twelve hours on
two cores, one run on each.

A run is a directory of --work, which resumes where it was interrupted, and a JSON file of --results
once it has ended. --only SWEEP leaves the later stages out.
"""

import argparse
import itertools
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.results import RESULTS, ROOT, commit, processor, write_json
from benchmarks.harness.texts import DATA, write_small_corpus
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.monitoring.jsonl import read_metrics

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd", "linear", "constant")
LENGTH = 512
RATES = (3e-3, 6e-3, 12e-3, 24e-3)
SEEDS = (0, 1, 2)
STAGES = ("sweep", "schedules", "ablations")
# one part of the recipe with Muon changed at a time
ABLATIONS: dict[str, dict[str, Any]] = {
    "momentum 0.9": {"optim.momentum": 0.9},
    "updates of half the size": {"optim.update_rms": 0.1},
    "updates of twice the size": {"optim.update_rms": 0.4},
    "no weight decay": {"optim.weight_decay": 0.0},
    "no clipping": {"optim.clip_norm": 1e9},
    "final rate 0": {"optim.final_ratio": 0.0},
    "z-loss 1e-4": {"train.z_loss": 1e-4},
    "batch warm-up": {"train.batch_warmup": [[100, 4]]},
    "window warm-up": {"train.length_warmup": [[100, 256]]},
}
MODEL = {"vocab_size": 4096, "dim": 128, "num_layers": 4, "num_heads": 4, "ffn_dim": 344}
TINY = {"vocab_size": 512, "dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 32}


class Trial(NamedTuple):
    """A run: its name, and the keys that differ from the common ones."""

    name: str
    changes: dict[str, Any]


class Bench:
    """Trains what has no result yet.

    Args:
        arguments: The command line.
        corpus: Folder with shards and tokenizer.
    """

    def __init__(self, arguments: argparse.Namespace, corpus: Path):
        self._arguments, self._corpus = arguments, corpus

    def losses(self, trials: list[Trial]) -> dict[str, float]:
        """Held-out loss of each trial by name, in nats per token."""
        with ThreadPoolExecutor(self._arguments.workers) as pool:
            values = pool.map(self._loss, trials)
            return {trial.name: value for trial, value in zip(trials, values, strict=True)}

    def _loss(self, trial: Trial) -> float:
        arguments = self._arguments
        file = arguments.results / f"{trial.name.replace(' ', '-')}.json"
        table = self._table(trial)
        if file.exists():
            stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if stored["run"] == json.loads(json.dumps(table)):
                return float(stored["valid_loss"])
        folder = arguments.work / file.stem
        folder.mkdir(parents=True, exist_ok=True)
        run_file = folder / "run.toml"
        own = {"data": self._data(), "train": {"output": str(folder / "run"), "wandb": "disabled"}}
        run_file.write_text(tomli_w.dumps(_merged(table, own)), encoding="utf-8")
        command = [sys.executable, "-m", "pretrain.cli", "pretrain", str(run_file), "--auto-resume"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (folder / "log.txt").open("a") as log:
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
        records = read_metrics(folder / "run" / "metrics.jsonl")
        loss = next(r["valid_loss"] for r in reversed(records) if "valid_loss" in r)
        machine = f"one core of {processor()}, torch {torch.__version__}"
        facts = {"commit": commit("recipes"), "machine": machine}
        write_json(file, {"name": trial.name, "run": table, "valid_loss": loss, **facts})
        print(f"{trial.name:<44}{loss:8.4f}", flush=True)
        return float(loss)

    def _table(self, trial: Trial) -> dict[str, Any]:
        """The tables of a run that decide its result, besides the corpus."""
        arguments = self._arguments
        common: dict[str, Any] = {
            "model": TINY if arguments.quick else MODEL,
            "data": {"sequence_length": arguments.length},
            "optim": {"warmup_share": 0.07},
            "train": {
                "steps": arguments.steps,
                "global_batch_size": 8,
                "micro_batch_size": 4,
                "validate_every": arguments.steps,
                "validate_batches": 50,
            },
            "checkpoint": {"every": max(1, arguments.steps // 7), "keep_last": 1},
        }
        for key, value in trial.changes.items():
            table, _, name = key.partition(".")
            common = _merged(common, {table: {name: value}})
        return common

    def _data(self) -> dict[str, Any]:
        return {
            "datasets": [{"path": str(self._corpus / "data" / "train")}],
            "valid": str(self._corpus / "data" / "valid"),
            "tokenizer": str(self._corpus / "tokenizer.model"),
            "num_workers": 0,
        }


def _merged(table: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    inner = {key: table.get(key, {}) | value for key, value in other.items()}
    return table | inner


def main() -> None:
    """Run what has no result yet, print the table and the bars."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "lm", help="folder of the corpus")
    parser.add_argument("--corpus", default="techdocs", help="NAME of NAME.train.jsonl.xz")
    parser.add_argument("--megabytes", type=float, default=30.0, help="text that is read of it")
    parser.add_argument("--results", type=Path, default=RESULTS / "recipes", help="a file per run")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "recipes", help="the runs")
    parser.add_argument("--steps", type=int, default=700, help="steps of each run")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens per window")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*SEEDS], help="of each recipe")
    parser.add_argument("--rates", type=float, nargs="+", default=[*RATES], help="of the sweep")
    parser.add_argument("--only", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.quick:
            folder = Path(name)
            arguments.data, arguments.corpus, arguments.megabytes = folder, "small", 0.2
            arguments.results, arguments.work = folder / "results", folder / "work"
            arguments.steps, arguments.seeds, arguments.rates = 4, [0], [1e-3, 3e-3]
            arguments.only, arguments.length = STAGES[1], 64
            write_small_corpus(folder, "small")
        file = arguments.data / f"{arguments.corpus}.train.jsonl.xz"
        if not file.exists():
            parser.error(f"--data {arguments.data}: expected {file.name}, which is not there")
        run_parsed("recipes", __doc__, arguments, lambda: measure(arguments, file))


def measure(arguments: argparse.Namespace, file: Path) -> Outcome:
    """Go through the stages."""
    arguments.results.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments, _prepared(arguments, file))
    figures = []
    sweep = {
        (optimizer, rate): Trial(
            f"{optimizer} cosine rate {rate:g} seed {arguments.seeds[0]}",
            {"optim.name": optimizer, "optim.learning_rate": rate},
        )
        for optimizer, rate in itertools.product(OPTIMIZERS, arguments.rates)
    }
    losses = bench.losses(list(sweep.values()))
    best = {
        optimizer: min(arguments.rates, key=lambda rate: losses[sweep[optimizer, rate].name])
        for optimizer in OPTIMIZERS
    }
    for optimizer, rate in best.items():
        loss = losses[sweep[optimizer, rate].name]
        print(f"{optimizer}: best rate {rate:g}, {loss:.4f} nats", flush=True)
    gain = losses[sweep["adamw", best["adamw"]].name] - losses[sweep["muon", best["muon"]].name]
    figures.append(Figure("Muon's gain over AdamW, each at its best rate", gain, "nats", 0.0))
    for stage in STAGES[1 : STAGES.index(arguments.only) + 1]:
        figures += _means(bench, list(_recipes(stage, best)), arguments.seeds)
    return Outcome(f"{arguments.steps} steps of 8 windows on {arguments.corpus}.", figures)


def _recipes(stage: str, best: dict[str, float]) -> Iterator[Trial]:
    """The recipes of a stage, without seeds."""
    if stage == "schedules":
        for name, schedule in itertools.product(OPTIMIZERS, SCHEDULES):
            keys = {"name": name, "schedule": schedule, "learning_rate": best[name]}
            yield Trial(f"{name} {schedule}", {f"optim.{k}": v for k, v in keys.items()})
        return
    base = {"optim.name": "muon", "optim.learning_rate": best["muon"]}
    for name, changes in ABLATIONS.items():
        yield Trial(f"muon cosine, {name}", base | changes)


def _means(bench: Bench, recipes: list[Trial], seeds: list[int]) -> list[Figure]:
    """Mean loss of each recipe over the seeds."""
    trials = [
        Trial(f"{recipe.name} seed {seed}", recipe.changes | {"train.seed": seed})
        for recipe in recipes
        for seed in seeds
    ]
    losses = bench.losses(trials)
    return [
        Figure(
            f"held-out loss of {recipe.name}",
            statistics.mean(losses[f"{recipe.name} seed {seed}"] for seed in seeds),
            "nats",
        )
        for recipe in recipes
    ]


def _prepared(arguments: argparse.Namespace, file: Path) -> Path:
    """Folder with tokenizer and shards of the corpus, made once."""
    folder: Path = arguments.work / arguments.corpus
    if (folder / "data" / "report.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.jsonl"
    with lzma.open(file, "rt", encoding="utf-8") as lines, text.open("w", encoding="utf-8") as out:
        left = arguments.megabytes * 1e6
        for line in lines:
            left -= out.write(line)
            if left <= 0:
                break
    model, vocabulary = str(folder / "tokenizer.model"), TINY if arguments.quick else MODEL
    size = ("--vocab-size", str(vocabulary["vocab_size"]))
    output, resonance = str(folder / "data"), [sys.executable, "-m", "pretrain.cli"]
    train = ["tokenizer", "train", "--inputs", str(text), "--output", model, *size]
    build = ["data", "build", "--sources", str(text), "--tokenizer", model, "--output", output]
    for command in (train, build):
        subprocess.run([*resonance, *command], check=True)
    return folder


if __name__ == "__main__":
    main()
