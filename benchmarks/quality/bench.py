"""Stages of the quality benchmark: runs without a result are trained, results are read."""

import sys
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path

from tqdm import tqdm

from benchmarks.harness.results import write_json
from benchmarks.harness.thresholds import Figure
from benchmarks.quality import plan, text
from benchmarks.quality.models import build
from benchmarks.quality.plot import plot_losses
from benchmarks.quality.report import make_report, sources
from benchmarks.quality.runs import Worker
from benchmarks.quality.stored import (
    COSTS,
    Result,
    best_rates,
    cost_key,
    disagreement,
    read_costs,
    read_result,
)
from benchmarks.quality.training import step_ms


class Bench:
    """Trains runs that have no result, and keeps results in a folder.

    Args:
        budget: Sizes of everything.
        corpora: Tokens of all texts.
        output: Folder of results.
        work: Folder of the tables and the plot.
        pool: Processes that train.
    """

    def __init__(
        self,
        budget: plan.Budget,
        corpora: list[text.Corpus],
        output: Path,
        work: Path,
        pool: Executor,
    ):
        self.budget, self.corpora, self.pool = budget, corpora, pool
        self.output, self.work = output, work
        self.worker = Worker(budget, corpora)
        self.results: dict[str, Result] = {}

    def run(self, runs: list[plan.Run]) -> None:
        """Read or train the results of runs.

        Raises:
            SystemExit: A stored result is of another run than the one of that name.
        """
        waiting: dict[Future[Result], plan.Run] = {}
        for run in runs:
            if run.name in self.results:
                continue
            path = self.output / f"{run.name}.json"
            if path.exists():
                stored = read_result(path)
                problem = disagreement(run, stored)
                if problem:
                    sys.exit(f"{path}: {problem}; remove the file to run it again")
                self._keep(run, stored)
            else:
                waiting[self.pool.submit(self.worker.measure, run, path)] = run
        done = as_completed(waiting)
        for future in tqdm(done, total=len(waiting), unit="run", disable=None if waiting else True):
            self._keep(waiting[future], future.result())

    def _keep(self, run: plan.Run, result: Result) -> None:
        self.results[run.name] = result
        with tqdm.external_write_mode():
            print(f"{run.name}: {result.get('valid_loss', result.get('accuracy')):.4f}", flush=True)

    def sweep(self, corpora: list[str]) -> dict[str, dict[str, float]]:
        """Each kind's learning rate with the smallest validation loss, per corpus.

        A sweep is extended by factors of two until its best rate lies inside.
        """
        tried = {(name, kind): set(self.budget.rates) for name in corpora for kind in plan.KINDS}
        wider = dict.fromkeys(tried, 0.0)
        while wider:
            runs = [
                plan.swept(self.budget, *key, rate, self.budget.seeds[0])
                for key, rates in tried.items()
                for rate in sorted(rates)
            ]
            self.run(runs)
            swept = [self.results[run.name] for run in runs]
            best = best_rates(swept, corpora, self.budget)
            wider = {
                (name, kind): plan.next_rate(rates, best[name][kind])
                for (name, kind), rates in tried.items()
            }
            wider = {key: rate for key, rate in wider.items() if rate not in tried[key]}
            for key, rate in wider.items():
                tried[key].add(rate)
        return best

    def ablate(self, corpus: str) -> None:
        """Run every change with one seed; the best of them with all seeds, and longer."""
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
        for result in self.results.values():
            if result["task"] in names and result["rotary"]:
                kinds.setdefault(cost_key(result), []).append(result)
        costs, length = read_costs(self.output), self.budget.length
        if set(costs) != set(kinds):
            models = [
                build(same[0]["kind"], same[0]["size"], text.VOCAB_SIZE, length,
                      same[0]["changes"], seed=0)
                for same in kinds.values()
            ]  # fmt: skip
            batches = text.batches(self.corpora[0].train, self.budget.batch, length, seed=0)
            costs = dict(zip(kinds, step_ms(models, batches), strict=True))
            write_json(self.output / COSTS, costs)
        for key, same in kinds.items():
            for result in same:
                result["step_ms"] = costs[key]

    def report(self, best: dict[str, dict[str, float]]) -> tuple[str, list[Figure]]:
        """Write results.json, table.md and curves.png.

        Returns:
            (the tables, the figures).
        """
        names = [corpus.name for corpus in self.corpora]
        write_json(self.work / "results.json", self.results)
        report = make_report(self.results, names, self.budget, best)
        heading = f"{'; '.join(sources(self.results))}. Validation loss in nats per token.\n\n"
        (self.work / "table.md").write_text(heading + report.markdown, encoding="utf-8")
        plot_losses(self.results, names, self.work / "curves.png")
        return heading + report.markdown, report.figures


def run_stages(bench: Bench, corpora: list[str]) -> tuple[str, list[Figure]]:
    """Tables and figures of the last report, after all stages."""
    first, others = corpora[0], corpora[1:]
    best = bench.sweep([first])
    bench.report(best)
    # ablations decide what the default is: before the other corpora
    bench.ablate(first)
    bench.report(best)
    if others:
        best |= bench.sweep(others)
        bench.report(best)
    bench.run([run for task in plan.RECALL_SETTINGS for run in plan.recall(bench.budget, *task)])
    bench.report(best)
    bench.run([run for name in best for run in plan.repeats(bench.budget, name, best[name])])
    bench.measure_costs()
    return bench.report(best)
