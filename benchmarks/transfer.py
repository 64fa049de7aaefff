"""Loss over the learning rate at three widths: `optim.scale = "width"` keeps the best rate.

    python -m benchmarks.transfer --folder runs/transfer

A sweep of rates for each optimizer and each of three models of about 0.5, 1.4 and 5.5 million
parameters (widths 64, 128 and 288, of the same depth), on the same tokens of the standard library's
source; `--unscaled` adds the same sweeps with one rate for all parameters. The bars: at every
width, the loss at the rate that is best at the smallest width is within the tolerance of the best
loss of that width. About ten hours on two cores.

Each run is a directory of --folder, which resumes where it was interrupted, and a JSON file next to
it once it has ended.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.results import write_json
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.monitoring.jsonl import read_metrics

OPTIMIZERS = ("adamw", "muon")
WIDTHS = (64, 128, 288)
RATES = (1.5e-3, 3e-3, 6e-3, 12e-3, 24e-3, 48e-3)
BASE_WIDTH, HEAD, LAYERS, VOCABULARY = 128, 32, 4, 4_096
LENGTH, WINDOWS, STEPS = 256, 16, 600
# nats per token that a loss may be above the best of its width: less than seeds differ by
TOLERANCE = 0.02


class Trial(NamedTuple):
    """A run of a sweep."""

    optimizer: str
    scale: str
    width: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.optimizer}-{self.scale}-{self.width}-{self.rate:g}-{self.seed}"


class Sizes(NamedTuple):
    """What the quick form makes smaller."""

    widths: tuple[int, ...]
    rates: tuple[float, ...]
    length: int
    steps: int
    vocabulary: int
    layers: int


FULL = Sizes(WIDTHS, RATES, LENGTH, STEPS, VOCABULARY, LAYERS)
QUICK = Sizes((32, 64), (1e-3, 4e-3), 64, 16, 512, 1)


class Sweep:
    """Trains what has no result yet.

    Args:
        folder: Runs and results.
        sizes: Sizes of models and runs.
        workers: Runs at a time.
    """

    def __init__(self, folder: Path, sizes: Sizes, workers: int):
        self.folder, self.sizes, self.workers = folder, sizes, workers
        self.corpus = _corpus(folder / "corpus", sizes.vocabulary)

    def losses(self, trials: list[Trial]) -> dict[Trial, float]:
        """Held-out loss of each trial, in nats per token."""
        with ThreadPoolExecutor(self.workers) as pool:
            return dict(zip(trials, pool.map(self._loss, trials), strict=True))

    def _loss(self, trial: Trial) -> float:
        table, file = self._table(trial), self.folder / f"{trial.name}.json"
        if file.exists():
            stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if stored["run"] == table:
                return float(stored["valid_loss"])
        folder = self.folder / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        run_file = folder / "run.toml"
        run_file.write_text(tomli_w.dumps(table), encoding="utf-8")
        command = [sys.executable, "-m", "pretrain.cli", "pretrain", str(run_file), "--auto-resume"]
        with (folder / "log.txt").open("a") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
        records = read_metrics(folder / "run" / "metrics.jsonl")
        loss = float(next(r["valid_loss"] for r in reversed(records) if "valid_loss" in r))
        write_json(file, {"run": table, "valid_loss": loss})
        print(f"{trial.name:<36}{loss:8.4f}", flush=True)
        return loss

    def _table(self, trial: Trial) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "model": {
                "vocab_size": sizes.vocabulary,
                "dim": trial.width,
                "num_layers": sizes.layers,
                "num_heads": trial.width // HEAD,
                "ffn_dim": 8 * trial.width // 3 // 8 * 8,
            },
            "data": {
                "datasets": [{"path": str(self.corpus / "data" / "train")}],
                "valid": str(self.corpus / "data" / "valid"),
                "tokenizer": str(self.corpus / "tokenizer.model"),
                "sequence_length": sizes.length,
                "num_workers": 0,
            },
            "optim": {
                "name": trial.optimizer,
                "scale": trial.scale,
                "learning_rate": trial.rate,
                "warmup_share": 0.07,
            }
            | ({"base_width": BASE_WIDTH} if trial.scale == "width" else {}),
            "train": {
                "output": str(self.folder / trial.name / "run"),
                "steps": sizes.steps,
                "global_batch_size": WINDOWS,
                "micro_batch_size": WINDOWS,
                "validate_every": sizes.steps,
                "validate_batches": 30,
                "seed": trial.seed,
                "wandb": "disabled",
            },
            "checkpoint": {"every": max(1, sizes.steps // 6), "keep_last": 1},
        }


def _corpus(folder: Path, vocabulary: int) -> Path:
    """Folder with tokenizer and shards of the standard library's source, made once."""
    if not (folder / "data" / "report.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = str(Path(json.__file__).parents[1] / "*.py")
        model, resonance = str(folder / "tokenizer.model"), [sys.executable, "-m", "pretrain.cli"]
        train = ["tokenizer", "train", "--inputs", source, "--output", model]
        build = ["data", "build", "--sources", source, "--tokenizer", model]
        for command in (
            [*train, "--vocab-size", str(vocabulary)],
            [*build, "--output", str(folder / "data")],
        ):
            subprocess.run([*resonance, *command], check=True)
    return folder


def measure(arguments: argparse.Namespace) -> Outcome:
    """Run what has no result yet, print the sweeps, compare their best rates."""
    sizes = QUICK if arguments.quick else FULL
    sweep = Sweep(arguments.folder.resolve(), sizes, arguments.workers)
    scales = ("width", "none") if arguments.unscaled else ("width",)
    trials = [
        Trial(*each, seed)
        for *each, seed in itertools.product(
            arguments.optimizers, scales, sizes.widths, sizes.rates, arguments.seeds
        )
    ]
    losses = sweep.losses(trials)
    figures = []
    for optimizer, scale in itertools.product(arguments.optimizers, scales):
        figures += _compared(optimizer, scale, sizes, losses, arguments.seeds)
    windows = f"{sizes.steps} steps of {WINDOWS} windows of {sizes.length} tokens"
    return Outcome(f"{windows}, {len(arguments.seeds)} seeds.", figures)


def _compared(
    optimizer: str, scale: str, sizes: Sizes, losses: dict[Trial, float], seeds: list[int]
) -> list[Figure]:
    """Print a sweep's losses by width and rate; what the best rate of the smallest width loses."""
    print(f"{optimizer}, scale {scale}: held-out nats per token by rate")
    print("width  " + "".join(f"{rate:>10g}" for rate in sizes.rates))
    means = {}
    for width in sizes.widths:
        for rate in sizes.rates:
            of_seeds = [losses[Trial(optimizer, scale, width, rate, seed)] for seed in seeds]
            means[width, rate] = sum(of_seeds) / len(seeds)
        print(f"{width:<7}" + "".join(f"{means[width, rate]:>10.4f}" for rate in sizes.rates))
    best = {width: min(sizes.rates, key=lambda rate: means[width, rate]) for width in sizes.widths}
    print("best   " + ", ".join(f"{width}: {rate:g}" for width, rate in best.items()), flush=True)
    first = best[sizes.widths[0]]
    return [
        Figure(
            f"{optimizer}, scale {scale}: loss of width {width} at the best rate of width "
            f"{sizes.widths[0]} above its best",
            means[width, first] - means[width, best[width]],
            "nats",
            TOLERANCE if scale == "width" else None,
            at_most=True,
        )
        for width in sizes.widths[1:]
    ]


def main() -> None:
    """Parse the command line, and measure."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer"), help="runs, results")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=[*OPTIMIZERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of each rate")
    parser.add_argument("--unscaled", action="store_true", help="also without optim.scale")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.quick:
            arguments.folder, arguments.optimizers = Path(name), ["muon"]
        run_parsed("transfer", __doc__, arguments, lambda: measure(arguments))


if __name__ == "__main__":
    main()
