"""`resonance report`: one file of HTML about runs, that needs no network (imports no torch)."""

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from data_pipeline.redaction import redact
from data_pipeline.storage.atomic import write_text_atomically
from pretrain.reporting.charts import Chart, charts_of
from pretrain.reporting.records import RunRecords, read_run
from pretrain.reporting.tables import differences, environment, evaluations, glance, timeline
from pretrain.viewing_commands import ReportCommand

PAGE = Path(__file__).parent / "page"
# points of all curves of a page, and of one
MOST_POINTS, MOST_OF_CURVE, LEAST_OF_CURVE = 120_000, 3_000, 150
CURVES_OF_RUN = 4
# fewer runs are read before processes have started
PARALLEL_RUNS = 8


def report(command: ReportCommand) -> str:
    """Write the page; with `--watch`, again whenever the runs have written something.

    Returns:
        A line about it.

    Raises:
        RunError: No folder holds a run.
        WriteError: The page cannot be written.
    """
    output = command.output or default_output(command.runs[0])
    while True:
        stamp = _stamp(command.runs)
        runs = read_runs(command.runs, folders_may_be_empty=command.watch)
        follows = command.watch and (not runs or any(run.state == "running" for run in runs))
        text = render(runs, refresh_s=command.interval_s if follows else 0.0)
        write_text_atomically(output, text)
        if not follows:
            size = len(text.encode()) / 1e6
            return f"{output}: {len(runs)} run(s), {size:.1f} MB"
        print(f"{output}: step {max((_last_step(r) for r in runs), default=0)}", file=sys.stderr)
        _wait_for_change(command, stamp)


def default_output(run: Path) -> Path:
    """Where the page lies if nobody says it: in the first run's folder."""
    return run / "report.html"


def read_runs(folders: Sequence[Path], *, folders_may_be_empty: bool = False) -> list[RunRecords]:
    """The records of runs; a folder that is none stands for the runs in it.

    Raises:
        RunError: Names a folder that holds no run.
    """
    found: list[Path] = []
    for folder in folders:
        # a run file may lie next to the folder of its run
        has_steps = (folder / "metrics.jsonl").exists()
        inner = [] if has_steps else sorted(filter(is_run, _folders_in(folder)))
        if not is_run(folder) and not inner and not folders_may_be_empty:
            # the message of a single run
            read_run(folder, LEAST_OF_CURVE)
        found += inner or [folder] * is_run(folder)
    unique = list({folder.resolve(): folder for folder in found}.values())
    share = MOST_POINTS // (CURVES_OF_RUN * max(len(unique), 1))
    read = partial(read_run, points=max(LEAST_OF_CURVE, min(MOST_OF_CURVE, share)))
    if len(unique) < PARALLEL_RUNS:
        return _renamed([read(folder) for folder in unique])
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return _renamed(list(pool.map(read, unique)))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory."""
    return (folder / "metrics.jsonl").exists() or (folder / "run.toml").exists()


def render(
    runs: Sequence[RunRecords],
    refresh_s: float = 0.0,
    *,
    charts: list[Chart] | None = None,
    title: str = "",
) -> str:
    """The page.

    Every text is escaped, and the policy of the page runs no script but the three of its own.

    Args:
        runs: The runs.
        refresh_s: Seconds after which an open page loads itself again; 0 for never.
        charts: Charts of something else than runs, with escaped texts; None for the runs'.
        title: Title; empty for the names of the runs.
    """
    charts = charts_of(runs) if charts is None else charts
    names = ", ".join(run.name for run in runs[:3]) + (" ..." if len(runs) > 3 else "")
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    plotly = get_plotlyjs()
    # inside of a script element only `<` could end it
    data = json.dumps(
        {"charts": charts, "refresh_s": refresh_s}, separators=(",", ":"), allow_nan=False
    )
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    environment_of_page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment_of_page.get_template("report.html").render(
        title=title or names,
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        follows=refresh_s > 0,
        runs=runs,
        glance=glance(runs),
        differences=differences(runs),
        evaluations=evaluations(runs),
        events=timeline(runs),
        environment=environment(runs),
        charts=charts,
        samples=[(run.name, sample) for run in runs for sample in run.samples[-5:]],
        redact=redact,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        policy=" ".join(map(_hash, (plotly, script))),
        plotly=Markup(plotly),
        script=Markup(script),
        data=Markup(data),
    )


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _renamed(runs: list[RunRecords]) -> list[RunRecords]:
    """Runs of one name get that of the folder above in front."""
    names = [run.name for run in runs]
    return [
        run._replace(name=f"{run.folder.resolve().parent.name}/{run.name}")
        if names.count(run.name) > 1
        else run
        for run in runs
    ]


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _last_step(run: RunRecords) -> int:
    return int(run.last.get("step", 0))


def _stamp(folders: Sequence[Path]) -> list[Any]:
    """Times of the files that change when a run writes."""
    files = []
    for folder in folders:
        for run in (folder, *_folders_in(folder)):
            files += [run / name for name in ("metrics.jsonl", "events.jsonl", "evaluation.json")]
    return [(file, file.stat().st_mtime_ns) for file in files if file.exists()]


def _wait_for_change(command: ReportCommand, stamp: list[Any]) -> None:
    """Wait an interval, and on for a change, or until a run may have ended without one."""
    begin = time.monotonic()
    time.sleep(command.interval_s)
    longest = max(10.0, 2 * command.interval_s)
    while _stamp(command.runs) == stamp and time.monotonic() - begin < longest:
        time.sleep(min(command.interval_s, 1.0))
