"""Tables of runs for a page: texts only, which the page escapes (imports no torch)."""

import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipeline.redaction import redact
from pretrain.reporting.records import RunRecords, checkpoint_steps

# keys that every run has for itself
OWN_KEYS = ("train.output", "checkpoint.remote")
MOST_EVENTS = 300


class Table(NamedTuple):
    """A table.

    Attributes:
        heads: Names of its columns; the first one names the row.
        rows: Texts.
    """

    heads: list[str]
    rows: list[list[str]]


def number(value: float | None, digits: int = 4) -> str:
    """A number for people; an en dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "not finite"
    if abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def glance(runs: Sequence[RunRecords]) -> Table:
    """A row for each run."""
    heads = [
        *("run", "state", "step", "of", "tokens", "loss", "held-out loss", "best held-out"),
        *("tokens/s (median)", "utilisation", "starts", "bad steps", "unreadable lines"),
    ]
    rows = []
    for run in runs:
        valid = [r["valid_loss"] for r in run.sampled if "valid_loss" in r]
        mfu = [r["mfu"] for r in run.sampled if "mfu" in r]
        kinds = [event["event"] for event in run.events]
        last = run.last
        rows.append(
            [
                run.name,
                run.state,
                f"{int(last.get('step', 0)):,}",
                str(run.keys.get("train.steps", "–")),
                f"{int(last.get('tokens', 0)):,}",
                number(last.get("loss")),
                number(valid[-1] if valid else None),
                number(min(valid) if valid else None),
                number(last.get("tokens_per_s")),
                number(mfu[-1] if mfu else None, 3),
                str(sum(kind in ("start", "resume") for kind in kinds) or "–"),
                str(sum(kind in ("skip", "rollback", "stop", "note") for kind in kinds)),
                str(run.num_bad_lines),
            ]
        )
    return Table(heads, rows)


def differences(runs: Sequence[RunRecords]) -> Table | None:
    """The keys of the run files that differ; None for one run."""
    if len(runs) < 2:
        return None
    names = sorted({key for run in runs for key in run.keys} - set(OWN_KEYS))
    differing = [key for key in names if len({_shown(run.keys.get(key)) for run in runs}) > 1]
    rows = [
        [run.name, *(_shown(run.keys.get(key)) for key in differing), number(run.last.get("loss"))]
        for run in runs
    ]
    return Table(["run", *differing, "loss"], rows)


def evaluations(runs: Sequence[RunRecords]) -> Table | None:
    """Losses that `resonance evaluate` wrote; None if it wrote none."""
    rows = []
    for run in runs:
        losses = run.evaluation.get("losses")
        if isinstance(losses, dict):
            rows += [
                [run.name, str(name), number(_as_float(loss)), str(run.evaluation.get("data", ""))]
                for name, loss in losses.items()
            ]
    return Table(["run", "model", "nats per token", "data"], rows) if rows else None


def timeline(runs: Sequence[RunRecords]) -> Table | None:
    """The last events, in their order."""
    events = sorted(
        ((event, run.name) for run in runs for event in run.events), key=lambda e: e[0]["time"]
    )
    rows = [
        [
            _clock(event["time"]),
            name,
            str(event["step"]),
            event["event"],
            redact(str(event.get("text", ""))),
        ]
        for event, name in events[-MOST_EVENTS:]
    ]
    return Table(["time", "run", "step", "event", "text"], rows) if rows else None


def environment(runs: Sequence[RunRecords]) -> list[dict[str, Any]]:
    """Versions, folder, checkpoints and run file of each run."""
    return [
        {
            "name": run.name,
            "folder": str(run.folder.resolve()),
            "versions": ", ".join(f"{name} {value}" for name, value in run.versions.items()),
            "checkpoints": [
                (f"step {step}", path.resolve().as_uri())
                for step, path in zip(checkpoint_steps(run), run.checkpoints, strict=True)
            ],
            "keys": [(key, _shown(value)) for key, value in run.keys.items()],
        }
        for run in runs
    ]


def _clock(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "–"


def _as_float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return redact(value if isinstance(value, str) else json.dumps(value, default=str))
