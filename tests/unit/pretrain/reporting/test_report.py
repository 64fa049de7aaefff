"""The report of runs in every state, and what hostile texts become in it."""

import json
import math
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import WriteError
from pretrain.errors import RunError
from pretrain.reporting.records import Points, read_run, thinned
from pretrain.reporting.report import read_runs, render, report
from pretrain.viewing_commands import ReportCommand
from tests.run_folders import made_up_run, write_lines

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


class _Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert match
    found: dict[str, Any] = json.loads(match[1])
    return found


def _charts(page: str) -> dict[str, Any]:
    return {chart["id"]: chart for chart in _data(page)["charts"]}


def _elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(page)
    return parser.found


def test_a_whole_run(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "first", learning_rate=1e-3)
    assert "1 run(s)" in report(ReportCommand(runs=(run,)))
    page = (run / "report.html").read_text()
    charts = _charts(page)
    assert {"loss", "grad_norm", "tokens_per_s", "mfu", "parts", "events"} <= set(charts)
    loss, held_out = charts["loss"]["traces"]
    assert loss["x"] == list(range(1, 61))
    assert loss["y"][0] == 6.0
    assert held_out["y"] == [2.3, 2.2, 2.16667]
    # collectives lie inside of the other parts
    assert [trace["name"] for trace in charts["parts"]["traces"]] == ["forward"]
    for text in ("finished", "of straggler", "unigram", "main():", "optim.learning_rate = 0.001"):
        assert text in page
    assert page.count("<script") == 3


def test_runs_are_compared_by_the_keys_that_differ(tmp_path: Path) -> None:
    made_up_run(tmp_path / "sweep" / "a", learning_rate=1e-3, beta1=0.9)
    made_up_run(tmp_path / "sweep" / "b", learning_rate=2e-3, beta1=0.9)
    runs = read_runs([tmp_path / "sweep"])
    assert [run.name for run in runs] == ["a", "b"]
    page = render(runs)
    table = page.partition("Keys of the run files that differ</caption>")[2].partition("</table>")[
        0
    ]
    assert re.findall(r'<th scope="col">([^<]*)', table) == ["run", "optim.learning_rate", "loss"]
    assert "0.002" in table


def test_nothing_comes_from_the_network(tmp_path: Path) -> None:
    page = render(read_runs([made_up_run(tmp_path / "first")]))
    for _, attributes in _elements(page):
        for key in ("src", "href", "action", "data", "srcset"):
            assert not re.match(r"\w+:?//|http", attributes.get(key) or ""), attributes
    policy = next(a["content"] for t, a in _elements(page) if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "_")
    run = made_up_run(tmp_path / name, name=HOSTILE)
    event = {"time": 1.0, "step": 1, "event": HOSTILE, "text": HOSTILE}
    write_lines(run / "events.jsonl", [event])
    write_lines(run / "samples.jsonl", [{"step": HOSTILE, "prompt": HOSTILE, "text": HOSTILE}])
    losses = {HOSTILE: 1.0}
    (run / "evaluation.json").write_text(json.dumps({"losses": losses, "data": HOSTILE}))
    trace = {"type": "scatter", "name": HOSTILE, "x": [1], "y": [math.nan]}
    picture = {"id": HOSTILE, "title": HOSTILE, "unit": HOSTILE, "traces": [trace], "layout": {}}
    (run / "analysis.json").write_text(json.dumps({"charts": [picture]}))
    page = render(read_runs([run]))
    elements = _elements(page)
    assert [tag for tag, _ in elements].count("script") == 3
    assert "img" not in {tag for tag, _ in elements}
    assert not [a for _, a in elements if any(key.startswith("on") for key in a)]
    assert "{{7*7}}" in page
    # plotly reads names as HTML of its own kind
    names = [trace["name"] for chart in _data(page)["charts"] for trace in chart["traces"]]
    assert any("&lt;script" in name for name in names)
    assert not any("<" in name for name in names)


def test_a_run_without_metrics(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text("[train]\nsteps = 5\n")
    page = render(read_runs([tmp_path / "run"]))
    assert "run: no steps are recorded." in page
    assert _data(page)["charts"] == []


def test_broken_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "lo\n\0\0\n[1]\n{"step": "x", "tokens": 1}\n' + "[" * 9999 + "\n")
        file.write('{"step": 62, "tokens": 1, "loss": 7.5, "tokens_per_s": 1.0}\n{"step": 63, "tok')
    records = read_run(run, 1000)
    assert records.num_bad_lines == 6
    assert records.curves["loss"].values[-1] == 7.5
    assert records.num_steps == 61


def test_damaged_side_files_do_not_matter(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")
    for name in ("run.toml", "evaluation.json", "analysis.json", "events.jsonl", "spectrum.jsonl"):
        (run / name).write_bytes(b"\xff{[\0" * 50)
    page = render(read_runs([run]))
    assert "its run.toml is missing or cannot be read" in page
    assert len(_charts(page)["loss"]["traces"]) == 2


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")
    (run / "events.jsonl").unlink()
    record = {"time": 1.7e9, "step": 3, "action": "skip", "reason": "loss is nan", "batches": []}
    write_lines(run / "audit.jsonl", [record])
    old = {"step": 1, "tokens": 5, "loss": 3.0, "tokens_per_s": 1.0}
    write_lines(run / "metrics.jsonl", [old])
    charts = _charts(render(read_runs([run])))
    assert charts["events"]["traces"][0]["y"] == ["skip"]
    assert "mfu" not in charts


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    run = made_up_run(tmp_path / "run")
    record = {"tokens": 5, "loss": value, "grad_norm": value, "tokens_per_s": 1.0}
    lines = [{"step": step} | record | {"memory_bytes": value} for step in range(1, 9)]
    write_lines(run / "metrics.jsonl", [*lines, {"step": 9, "tokens": 1, "valid_loss": value}])
    page = render(read_runs([run]))
    assert "not finite" in page
    assert "loss" not in _charts(page)
    assert _charts(page)["tokens_per_s"]["traces"][0]["y"] == [1.0] * 8


def test_a_running_run(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", steps=5, total=100)
    assert read_run(run, 10).state == "stopped"
    beat = run / "heartbeat" / "rank-00000.json"
    beat.parent.mkdir()
    beat.write_text("{}")
    assert read_run(run, 10).state == "running"
    old = time.time() - 3600
    os.utime(beat, (old, old))
    assert read_run(run, 10).state == "stopped"


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no such folder"), ("empty", "neither metrics.jsonl nor run.toml")],
)
def test_what_is_no_run_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=message):
        report(ReportCommand(runs=(tmp_path / name,)))


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")
    with pytest.raises(WriteError, match=r"page\.html: cannot write"):
        report(ReportCommand(runs=(run,), output=run / "metrics.jsonl" / "page.html"))


def test_thinned_curves_keep_their_extremes() -> None:
    values = np.sin(np.arange(100_000) / 500)
    values[[7, 12_345, 77_777]] = [9.0, -8.0, np.nan]
    steps = np.arange(100_000.0)
    few = thinned(Points(steps, 2 * steps, values), 300)
    assert len(few.values) <= 302
    assert np.nanmax(few.values) == 9.0
    assert np.nanmin(few.values) == -8.0
    assert few.steps[-1] == 99_999
    assert (few.tokens == 2 * few.steps).all()
    assert (np.diff(few.steps) > 0).all()
