"""Result files of the quality benchmark's runs, and facts derived from them (imports no torch)."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import results
from benchmarks.quality.plan import KINDS, Budget, Run
from spectral.upgrade import nested_keys

RESULTS = results.RESULTS / "quality" / "full"
COSTS = "costs.json"

Result = dict[str, Any]


def read_results(folder: Path) -> dict[str, Result]:
    """The results of all runs by name, with the time of a step where it was measured."""
    paths = sorted(path for path in folder.glob("*.json") if path.name != COSTS)
    stored = {path.stem: read_result(path) for path in paths}
    costs = read_costs(folder)
    for result in stored.values():
        if cost_key(result) in costs:
            result["step_ms"] = costs[cost_key(result)]
    return stored


def read_result(path: Path) -> Result:
    """The result of a run; changes under old names of configuration keys get today's."""
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result | {"changes": nested_keys(result["changes"])}


def read_costs(folder: Path) -> dict[str, float]:
    """Milliseconds of a step by `cost_key`; empty before they are measured."""
    path = folder / COSTS
    costs: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return costs


def cost_key(result: Result) -> str:
    """Key of the time of a step, which depends on kind, size and changes of a model."""
    return json.dumps([result[name] for name in ("kind", "size", "changes")])


def disagreement(run: Run, stored: Result) -> str | None:
    """How a stored result differs from the run of its name; None if it does not."""
    expected = json.loads(json.dumps(run._asdict()))
    actual = {key: stored.get(key) for key in expected}
    return None if actual == expected else f"expected a result of {expected}, found {actual}"


def best_rates(
    stored: Iterable[Result], corpora: Sequence[str], budget: Budget
) -> dict[str, dict[str, float]]:
    """Each kind's learning rate with the smallest validation loss, per corpus with results."""
    best: dict[str, dict[str, float]] = {}
    on_text = [result for result in stored if result["task"] in corpora]
    swept = [result for result in on_text if _is_swept(result, budget)]
    # the smallest loss is written last
    for result in sorted(swept, key=lambda result: -result["valid_loss"]):
        best.setdefault(result["task"], {})[result["kind"]] = result["rate"]
    return {name: best[name] for name in corpora if len(best.get(name, {})) == len(KINDS)}


def _is_swept(result: Result, budget: Budget) -> bool:
    """Whether a result belongs to a sweep of learning rates: one seed of the small size."""
    kind = f"{result['task']}-{result['kind']}-lr"
    return result["name"].startswith(kind) and result["seed"] == budget.seeds[0]
