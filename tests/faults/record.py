"""The record of faults, a JSON line each, and its summary by kind."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.results import commit, machine, write_json
from pretrain.monitoring.jsonl import read_lines
from tests.faults.kinds import KINDS

SUMMARY = Path(__file__).with_name("record.json")
PAGE = Path(__file__).parents[2] / "docs" / "survival.md"
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
        """Seeds that need not run: with an older commit's failure, one runs again."""
        return {
            line["seed"]
            for line in latest(self.lines())
            if line["outcome"] == OK or line["commit"] == self.commit
        }


def latest(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of each seed's last run."""
    lines = list(lines)
    commits = {line["seed"]: line["commit"] for line in lines}
    return [line for line in lines if line["commit"] == commits[line["seed"]]]


def summary(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by kind; a fault that did not strike does not count."""
    lines = latest(lines)
    struck = [line for line in lines if line["kind"]]
    rows = {}
    for name, kind in KINDS.items():
        ranks = Counter(line["ranks"] for line in struck if line["kind"] == name)
        rows[name] = {
            "does": kind.does,
            "faults": ranks.total(),
            "by_ranks": {str(number): ranks[number] for number in kind.ranks},
        }
    return {
        "commits": sorted({line["commit"] for line in lines}),
        "machine": machine(),
        "runs": len({line["seed"] for line in lines}),
        "faults": len(struck),
        "failed_seeds": sorted({line["seed"] for line in lines if line["outcome"] != OK}),
        "kinds": rows,
    }


def write_summary(record: Record) -> None:
    """Add a folder's runs to the committed summary, and write its table into docs/survival.md.

    Raises:
        SystemExit: Runs with these seeds and commits are counted already.
    """
    summarised = json.loads(SUMMARY.read_text(encoding="utf-8"))
    runs = sorted({f"{line['seed']} at {line['commit']}" for line in latest(record.lines())})
    twice = sorted(set(runs) & set(summarised["added"]))
    if twice:
        raise SystemExit(f"{record.path}: counted already: seeds {', '.join(twice)}")
    summarised = added(summarised, summary(record.lines())) | {"added": summarised["added"] + runs}
    write_json(SUMMARY, summarised)
    before, _, after = table_in(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + table(summarised) + after, encoding="utf-8")


def added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two summaries of different runs."""
    kinds = {
        name: {
            "does": row["does"],
            "faults": first["kinds"][name]["faults"] + row["faults"],
            "by_ranks": {
                number: first["kinds"][name]["by_ranks"][number] + count
                for number, count in row["by_ranks"].items()
            },
        }
        for name, row in second["kinds"].items()
    }
    return {
        "commits": sorted({*first["commits"], *second["commits"]}),
        "machine": second["machine"],
        "runs": first["runs"] + second["runs"],
        "faults": first["faults"] + second["faults"],
        "failed_seeds": sorted({*first["failed_seeds"], *second["failed_seeds"]}),
        "kinds": kinds,
    }


def table_in(page: str) -> tuple[str, str, str]:
    """A page before the table of faults, the table, and the page after it."""
    before, begin, rest = page.partition("<!-- faults: begin -->\n")
    shown, end, after = rest.partition("\n<!-- faults: end -->")
    return before + begin, shown, end + after


def table(summarised: Mapping[str, Any]) -> str:
    """The table of docs/survival.md."""
    machine_, commits = summarised["machine"], summarised["commits"]
    rows = [
        f"| {name} | {row['does']} | "
        + " | ".join(str(row["by_ranks"].get(number, "")) for number in ("1", "2", "4"))
        + f" | {row['faults']} |"
        for name, row in summarised["kinds"].items()
    ]
    failed = ", ".join(map(str, summarised["failed_seeds"])) or "none"
    return "\n".join(
        [
            "| kind | what is done | 1 rank | 2 ranks | 4 ranks | faults |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            f"| all | in {summarised['runs']} runs | | | | {summarised['faults']} |",
            "",
            f"Seeds that failed: {failed}. Commits {', '.join(commits)}; {machine_['cores']} cores "
            f"({machine_['processor']}), torch {machine_['torch']}.",
        ]
    )
