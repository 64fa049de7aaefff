"""Runs under faults, two side by side, each checked against the undisturbed run."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from tests.conftest import SmallCorpus
from tests.faults import number_faults
from tests.faults.checks import digests, numbers, place_foreign_files, problems
from tests.faults.layouts import LAYOUTS
from tests.faults.life import Life
from tests.faults.plan import Plan, plan_of
from tests.faults.record import OK, Record
from tests.faults.scenes import SCENES
from tests.faults.trial import Trial

# a corpus of several shards
SHARD_BYTES = 8_000


class Driver:
    """Runs plans, and records their outcomes.

    Args:
        folder: For the record, and for what failed runs leave.
        kinds: Names of the kinds to draw from.

    Attributes:
        stopping: Set it to stop after the runs that are under way.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.kinds = folder, kinds
        self.record = Record(folder / "record.jsonl")
        self._work = Path(tempfile.mkdtemp(prefix="resonance-faults-"))
        self._corpus = SmallCorpus(self._work / "corpus", SHARD_BYTES)
        self._references: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    def close(self) -> None:
        shutil.rmtree(self._work)

    def run_many(self, first: int, faults: int, seconds: float, side_by_side: int = 2) -> None:
        """Run seed after seed that is not recorded yet.

        Args:
            first: The first seed.
            faults: Stop when so many are recorded.
            seconds: Stop after that time.
            side_by_side: How many runs there are at a time.
        """
        end = time.monotonic() + seconds
        seeds = iter(seed for seed in count(first) if seed not in self.record.seeds())
        lock = threading.Lock()

        def work() -> None:
            while not (self.stopping.is_set() or time.monotonic() > end):
                if self.count() >= faults:
                    return
                with lock:
                    seed = next(seeds)
                try:
                    outcome = self.run_one(plan_of(seed, self.kinds))
                except BaseException:
                    # an error of the driver itself: the other run is the last one, too
                    self.stopping.set()
                    raise
                print(f"seed {seed}: {outcome}; {self.count()} faults", flush=True)

        with ThreadPoolExecutor(side_by_side) as pool:
            for future in [pool.submit(work) for _ in range(side_by_side)]:
                future.result()

    def run_one(self, plan: Plan) -> str:
        """Run a plan and record its faults; returns the outcome."""
        begin = time.monotonic()
        folder = self._work / f"seed-{plan.seed}"
        with self._trial(folder, plan.layout) as trial:
            SCENES[plan.scene].prepare(trial, plan.random(-1))
            expected = self._reference(plan.layout, trial.dropped)
            place_foreign_files(trial.output)
            corpus = digests(trial.corpus.folder)
            life = Life(trial, plan)
            try:
                life.live()
                trial.undo_all()
                outcome = "; ".join(problems(trial, expected, corpus)) or OK
            except AssertionError as error:
                outcome = str(error)
            if outcome != OK:
                self._keep(trial, plan, outcome)
        shutil.rmtree(folder)
        self.record.append(_lines(plan, life, outcome, time.monotonic() - begin))
        return outcome

    def count(self) -> int:
        """How many faults are recorded."""
        return sum(bool(line["kind"]) for line in self.record.lines())

    def _trial(self, folder: Path, layout: str) -> Trial:
        folder.mkdir()
        return Trial(folder, self._corpus, LAYOUTS[layout].ranks, LAYOUTS[layout].options)

    def _reference(self, layout: str, dropped: tuple[int, ...]) -> list[dict[str, Any]]:
        """The numbers of a run that nothing happens to, on data without some windows."""
        key = (layout, dropped)
        with self._lock:
            if key not in self._references:
                folder = self._work / f"reference-{len(self._references)}"
                with self._trial(folder, layout) as trial:
                    number_faults.drop(trial, dropped)
                    Life(trial, Plan(-1, layout, "plain", ())).live()
                    self._references[key] = numbers(trial)
                shutil.rmtree(folder)
            return self._references[key]

    def _keep(self, trial: Trial, plan: Plan, outcome: str) -> None:
        """Keep what explains a failure."""
        kept = self.folder / f"failed-{plan.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(trial.disk, kept)
        shutil.copyfile(trial.log, kept / "log.txt")
        (kept / "plan.json").write_text(json.dumps([outcome, plan]) + "\n", encoding="utf-8")


def _lines(plan: Plan, life: Life, outcome: str, seconds: float) -> Iterator[dict[str, Any]]:
    """A line for each fault that struck; one without a kind if none did."""
    run = {
        "seed": plan.seed,
        "layout": plan.layout,
        "ranks": plan.ranks,
        "scene": plan.scene,
        "outcome": outcome,
        "run_seconds": round(seconds, 1),
        "starts": len(life.statuses),
    }
    for strike in life.strikes:
        fault = plan.faults[strike.number]
        yield {
            **run,
            "kind": fault.kind,
            "point": {**fault._asdict(), "struck_after": strike.step},
            "seconds": strike.seconds,
        }
    if not life.strikes:
        yield {**run, "kind": "", "point": None, "seconds": 0.0}
