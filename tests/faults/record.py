"""The record of faults, a JSON line each, and its summary by kind."""

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.results import commit, machine, write_json
from pretrain.monitoring.jsonl import read_lines
from tests.faults.kinds import KINDS

SUMMARY = Path(__file__).with_name("record.json")
OK = "ok"


class Record:
    """A file of outcomes that runs side by side append to.

    Args:
        path: The file; what it holds is kept.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self.commit = commit("faults")

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add all faults of a run at once: a run is there as a whole or not at all."""
        text = "".join(json.dumps({**line, "commit": self.commit}) + "\n" for line in lines)
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def lines(self) -> list[dict[str, Any]]:
        return read_lines(self.path)

    def seeds(self) -> set[int]:
        """Seeds whose runs are recorded."""
        return {line["seed"] for line in self.lines()}


def summary(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by kind; a fault that did not strike does not count."""
    lines = list(lines)
    struck = [line for line in lines if line["kind"]]
    rows = {}
    for name, kind in KINDS.items():
        own = [line for line in struck if line["kind"] == name]
        rows[name] = {
            "does": kind.does,
            "faults": len(own),
            "by_ranks": {str(n): sum(line["ranks"] == n for line in own) for n in kind.ranks},
        }
    failed = {line["seed"]: line["outcome"] for line in lines if line["outcome"] != OK}
    return {
        "commits": sorted({line["commit"] for line in lines}),
        "machine": machine(),
        "runs": len({line["seed"] for line in lines}),
        "faults": len(struck),
        "failed_seeds": sorted(failed),
        "kinds": rows,
    }


def write_summary(record: Record, path: Path = SUMMARY) -> None:
    """Write the summary that docs/survival.md shows."""
    write_json(path, summary(record.lines()))


def table(summarised: Mapping[str, Any]) -> str:
    """The table of docs/survival.md."""
    head = ["| kind | what is done | 1 rank | 2 ranks | 4 ranks | faults |", "| --- " * 6 + "|"]
    rows = [
        f"| {name} | {row['does']} | "
        + " | ".join(str(row["by_ranks"].get(str(n), "")) for n in (1, 2, 4))
        + f" | {row['faults']} |"
        for name, row in summarised["kinds"].items()
    ]
    return "\n".join([*head, *rows])
