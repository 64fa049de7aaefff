"""Does a spectral language model learn as well as a Transformer of equal size?

    python benchmarks/quality.py

Against transformers' Llama (RoPE, SwiGLU, SDPA) of equal parameters (within 2%), tokenizer, data
order, batch and steps, each with the best of a small sweep of learning rates: novels and technical
documents (3 seeds of about 1.5M non-embedding parameters, one of about 6M), multi-query associative
recall, and a table of ablations. About five hours on two cores. Every run's result is a JSON file
with commit and machine as soon as it is there, and is not run again; the table and the plot are
made anew each time. `--budget smoke` goes through everything in a minute and says nothing.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import bars  # noqa: F401 (finds the package that a script here bears the name of)
import torch
from quality_parts import mqar, plan, report, text
from quality_parts.models import build, non_embedding
from quality_parts.training import accuracy, step_ms, token_losses, train
from torch import Tensor

import spectral.lm

Results = dict[str, dict[str, Any]]
DATA = Path(__file__).parents[2] / "shared/data/lm"


def describe_machine() -> str:
    """Processor, cores and torch, as results should name them."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def describe_commit() -> str:
    """Short hash of the commit, with '-dirty' if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    root = Path(__file__).parents[1]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


class Bench:
    """Runs what has no result yet and keeps results in a folder."""

    def __init__(self, budget: plan.Budget, corpora: list[text.Corpus], output: Path):
        self.budget, self.output = budget, output
        self.corpora = {corpus.name: corpus for corpus in corpora}
        self.results: Results = {}

    def result(self, run: plan.Run) -> dict[str, Any]:
        """The result of a run: read, or trained for and written."""
        path = self.output / f"{run.name}.json"
        asked = json.loads(json.dumps(run._asdict()))
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            if {key: found[key] for key in asked} != asked:
                raise ValueError(f"{path}: expected the result of {asked}: remove it to run again")
        else:
            phases = spectral.lm.rotary_phases
            if not run.rotary:
                spectral.lm.rotary_phases = no_phases
            try:
                measured = self._recall(run) if run.task.startswith("mqar") else self._text(run)
            finally:
                spectral.lm.rotary_phases = phases
            found = asked | measured
            found |= {"commit": describe_commit(), "machine": describe_machine()}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1))
            part.rename(path)
        self.results[run.name] = found
        score = found.get("valid_loss", found.get("accuracy"))
        print(f"{run.name}: {score:.4f}", flush=True)
        return found

    def measure_costs(self) -> None:
        """Add the time of a step to the results of all runs on text."""
        kinds: dict[str, list[dict[str, Any]]] = {}
        for found in self.results.values():
            if found["task"] in self.corpora and found["rotary"]:
                key = json.dumps([found[name] for name in ("kind", "size", "changes")])
                kinds.setdefault(key, []).append(found)
        path, length = self.output / "costs.json", self.budget.length
        costs: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        if set(costs) != set(kinds):
            models = [
                build(*(some[0][name] for name in ("kind", "size")), text.VOCAB_SIZE, length,
                      some[0]["changes"], seed=0)
                for some in kinds.values()
            ]  # fmt: skip
            corpus = next(iter(self.corpora.values()))
            batches = text.batches(corpus.train, self.budget.batch, length, seed=0)
            costs = dict(zip(kinds, step_ms(models, batches), strict=True))
            path.write_text(json.dumps(costs, indent=1))
        for key, same in kinds.items():
            for found in same:
                found["step_ms"] = costs[key]

    def best_rates(self, corpus: str) -> dict[str, float]:
        """Each kind's learning rate with the smallest validation loss."""
        swept = [self.result(run) for run in plan.sweep(self.budget, corpus)]
        return {
            kind: min((r for r in swept if r["kind"] == kind), key=lambda r: r["valid_loss"])[
                "rate"
            ]
            for kind in plan.KINDS
        }

    def _text(self, run: plan.Run) -> dict[str, Any]:
        corpus, length = self.corpora[run.task], self.budget.length
        model = build(run.kind, run.size, text.VOCAB_SIZE, length, run.changes, run.seed)
        batches = text.batches(corpus.train, self.budget.batch, length, run.seed)
        found = train(model, batches, run.steps, run.rate)
        tokens, labels, recalled = text.valid_windows(corpus, length)
        losses = token_losses(model, tokens, labels)
        return found | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.batch * length,
            "valid_loss": losses.mean().item(),
            "recalled_loss": losses[recalled].mean().item(),
            "other_loss": losses[~recalled].mean().item(),
            "recalled_share": recalled.double().mean().item(),
        }

    def _recall(self, run: plan.Run) -> dict[str, Any]:
        length, pairs = (int(part) for part in run.task.split("-")[1:])
        model = build(run.kind, run.size, mqar.VOCAB_SIZE, length, run.changes, run.seed)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for step in count():
                yield mqar.examples(self.budget.recall_batch, length, pairs, seed=step)

        found = train(model, batches(), run.steps, run.rate)
        tokens, labels = mqar.examples(1_000, length, pairs, seed=10**9)
        return found | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.recall_batch * length,
            "accuracy": accuracy(model, tokens, labels),
        }


def no_phases(
    position: int, length: int, head_dim: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(cos_TF, sin_TF) that turn nothing."""
    del position, base
    return like.new_ones(length, head_dim // 2), like.new_zeros(length, head_dim // 2)


def main() -> None:
    """Run what is missing, write results.json, table.md and curves.png, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="NAME.train.jsonl.xz, NAME.valid…")
    parser.add_argument("--corpora", nargs="+", default=["techdocs", "eltec_eng"])
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--budget", choices=plan.BUDGETS, default="full")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    budget, output = plan.BUDGETS[arguments.budget], arguments.output / arguments.budget
    corpora = text.prepare(arguments.data, arguments.corpora, output / "tokens", budget.megabytes)
    bench = Bench(budget, corpora, output)
    first = arguments.corpora[0]
    best = {first: bench.best_rates(first)}
    # they decide what the default is: before the rest
    for run in plan.ablations(budget, first, best[first]["spectral"]):
        bench.result(run)
    best |= {name: bench.best_rates(name) for name in arguments.corpora[1:]}
    for length, pairs in plan.RECALL_SETTINGS:
        for run in plan.recall(budget, length, pairs):
            bench.result(run)
    for name in arguments.corpora:
        for run in plan.repeats(budget, name, best[name]):
            bench.result(run)
    bench.measure_costs()
    (output / "results.json").write_text(json.dumps(bench.results, indent=1))
    found = report.table(bench.results, arguments.corpora, budget, best)
    (output / "table.md").write_text(found, encoding="utf-8")
    report.plot(bench.results, arguments.corpora, output / "curves.png")
    print(found)


if __name__ == "__main__":
    main()
