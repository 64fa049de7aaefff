"""Every query of the Grafana dashboard finds its series in a scrape of a real run."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT
from tests.e2e.runs import ROOT

DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
SELECTOR = re.compile(r"(resonance_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
# by name, the labels of every series
Series = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def series(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A scrape of a run with gates that has validated and sampled."""
    folder = tmp_path_factory.mktemp("scraped")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    file = small_corpus.run_file(folder / "run.toml", steps=100_000, workers=0, validate_every=2)
    command = [*COMMAND, "pretrain", str(file), "--monitor.every", "2"]
    command += ["--monitor.prometheus-port", str(port), "--train.validate-batches", "1"]
    running = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return _scraped(f"http://127.0.0.1:{port}/metrics", running)
    finally:
        running.kill()
        running.wait()


def _scraped(url: str, running: subprocess.Popen[bytes], limit_s: float = 90.0) -> Series:
    deadline = time.monotonic() + limit_s
    while True:
        assert running.poll() is None, "the run has ended"
        assert time.monotonic() < deadline, "no validation within the limit"
        try:
            with urllib.request.urlopen(url) as answer:
                text = answer.read().decode()
        except urllib.error.URLError:
            text = ""
        if "resonance_valid_loss" in text and "resonance_mfu" in text:
            break
        time.sleep(0.3)
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Prometheus adds the address
            found.setdefault(sample.name, []).append({**sample.labels, "instance": "host:9400"})
    return found


def _queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def _matches(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    for name, operator, value in matchers:
        wanted = ".*" if value == "$instance" else value
        equal = bool(re.fullmatch(wanted, labels.get(name, "")))
        if equal == (operator == "!="):
            return False
    return True


def test_every_query_finds_series(series: Series) -> None:
    missing = []
    for query in _queries():
        selectors = SELECTOR.findall(query)
        assert selectors, query
        for name, labels in selectors:
            matchers = MATCHER.findall(labels)
            assert ("instance", "=~", "$instance") in matchers
            if not any(_matches(each, matchers) for each in series.get(name, [])):
                missing.append(query)
    assert missing == []


def test_legends_name_labels_that_exist(series: Series) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            (name, _), *_ = SELECTOR.findall(target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(label in labels for labels in series[name]), target


def test_a_query_without_series_would_be_noticed(series: Series) -> None:
    assert "resonance_gone" not in series
    assert not any(_matches(each, [("part", "=", "gone")]) for each in series["resonance_seconds"])


def test_panels_do_not_overlap() -> None:
    places: list[dict[str, Any]] = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
