"""The stages of the quality benchmark: what has no result yet is run, the rest is read."""

import json
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path

import bars
from tqdm import tqdm

from benchmarks.quality import plan, report, text
from benchmarks.quality.models import build
from benchmarks.quality.runs import Result, Worker
from benchmarks.quality.training import step_ms


class Bench:
    """Runs what has no result yet and keeps results in a folder."""

    def __init__(
        self, budget: plan.Budget, corpora: list[text.Corpus], output: Path, pool: Executor
    ):
        self.budget, self.corpora, self.output, self.pool = budget, corpora, output, pool
        self.worker = Worker(budget, corpora)
        self.results: dict[str, Result] = {}

    def run(self, runs: list[plan.Run]) -> list[Result]:
        """Results in the order of `runs`: read, or trained for."""
        waiting: dict[Future[Result], plan.Run] = {}
        for run in runs:
            if run.name in self.results:
                continue
            path = self.output / f"{run.name}.json"
            if path.exists():
                found = json.loads(path.read_text())
                asked = json.loads(json.dumps(run._asdict()))
                if {key: found[key] for key in asked} != asked:
                    raise ValueError(f"{path}: expected a result of {asked}; remove it to run it")
                self._keep(run, found)
            else:
                waiting[self.pool.submit(self.worker.measure, run, path)] = run
        done = as_completed(waiting)
        for future in tqdm(done, total=len(waiting), unit="run", disable=None if waiting else True):
            self._keep(waiting[future], future.result())
        return [self.results[run.name] for run in runs]

    def _keep(self, run: plan.Run, found: Result) -> None:
        self.results[run.name] = found
        with tqdm.external_write_mode():
            print(f"{run.name}: {found.get('valid_loss', found.get('accuracy')):.4f}", flush=True)

    def best_rates(self, corpora: list[str]) -> dict[str, dict[str, float]]:
        """Of every corpus each kind's learning rate with the smallest validation loss.

        A sweep goes on by factors of two until its best rate lies inside.
        """
        tried = {(name, kind): set(self.budget.rates) for name in corpora for kind in plan.KINDS}
        best: dict[tuple[str, str], float] = {}
        wider = dict.fromkeys(tried, 0.0)
        while wider:
            runs = [
                plan.swept(self.budget, *key, rate, self.budget.seeds[0])
                for key, rates in tried.items()
                for rate in sorted(rates)
            ]
            # the smallest loss is written last
            for found in sorted(self.run(runs), key=lambda found: -found["valid_loss"]):
                best[found["task"], found["kind"]] = found["rate"]
            wider = {key: plan.next_rate(rates, best[key]) for key, rates in tried.items()}
            wider = {key: rate for key, rate in wider.items() if rate not in tried[key]}
            for key, rate in wider.items():
                tried[key].add(rate)
        return {name: {kind: best[name, kind] for kind in plan.KINDS} for name in corpora}

    def ablate(self, corpus: str) -> None:
        """Every change with one seed; the best of them with all, and longer."""
        self.run(plan.ablations(self.budget, corpus))
        first = self.budget.seeds[0]
        names = {
            label: plan.ablation(self.budget, corpus, label, first).name for label in plan.ABLATIONS
        }
        losses = {label: self.results[name]["valid_loss"] for label, name in names.items()}
        self.run(plan.confirmations(self.budget, corpus, losses))

    def measure_costs(self) -> None:
        """Add the time of a step to the results of all runs on text."""
        kinds: dict[str, list[Result]] = {}
        names = [corpus.name for corpus in self.corpora]
        for found in self.results.values():
            if found["task"] in names and found["rotary"]:
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
            batches = text.batches(self.corpora[0].train, self.budget.batch, length, seed=0)
            costs = dict(zip(kinds, step_ms(models, batches), strict=True))
            path.write_text(json.dumps(costs, indent=1))
        for key, same in kinds.items():
            for found in same:
                found["step_ms"] = costs[key]

    def report(self, best: dict[str, dict[str, float]]) -> tuple[str, list[bars.Bar]]:
        """Write results.json, table.md and curves.png; return the table and the bars."""
        names = [corpus.name for corpus in self.corpora]
        (self.output / "results.json").write_text(json.dumps(self.results, indent=1))
        table, found = report.table(self.results, names, self.budget, best)
        (self.output / "table.md").write_text(table, encoding="utf-8")
        report.plot(self.results, names, self.output / "curves.png")
        return table, found


def measure(bench: Bench, corpora: list[str]) -> tuple[str, list[bars.Bar]]:
    """All stages; the table and the bars of the last report."""
    first, others = corpora[0], corpora[1:]
    best = bench.best_rates([first])
    bench.report(best)
    # they decide what the default is: before the rest
    bench.ablate(first)
    bench.report(best)
    best |= bench.best_rates(others)
    bench.report(best)
    bench.run([run for task in plan.RECALL_SETTINGS for run in plan.recall(bench.budget, *task)])
    bench.report(best)
    bench.run([run for name in best for run in plan.repeats(bench.budget, name, best[name])])
    bench.measure_costs()
    return bench.report(best)
