"""Findings before a run is submitted: each kind of trouble is found, and has a remedy."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from launch import liveness, submissions
from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.preflight import (
    Finding,
    Plan,
    check_output,
    check_port,
    check_time,
    check_versions,
    judged,
    report,
)
from launch.slurm_config import SlurmConfig
from launch.versions import _source_digest, differences, unmet_requirements, versions

NOW = datetime(2027, 1, 1, 12)


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def test_output_that_need_not_exist(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    assert levels(check_output(output, 1000)) == {"output": "ok", "disk": "ok"}
    assert levels(check_output(output, 2**60)) == {"output": "ok", "disk": "bad"}
    assert levels(check_output(output, None)) == {"output": "ok", "disk": "warn"}
    assert not output.exists()


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert levels(check_output(tmp_path / "file" / "run", 1)) == {"output": "bad"}


def time_level(plan: Plan, **table: object) -> str:
    return check_time(SlurmConfig.model_validate(table), 300, plan, NOW).level


def test_time() -> None:
    # an hour's limit leaves 3300 s of steps
    assert time_level(Plan(3300, 1.0, 1)) == "ok"
    assert time_level(Plan(3301, 1.0, 1), max_requeues=0) == "bad"
    assert time_level(Plan(3301, 1.0, 2), max_requeues=0) == "ok"
    assert time_level(Plan(3301, 1.0, 1), max_requeues=1) == "ok"
    # nothing is requeued in a chain
    assert time_level(Plan(2 * 3300, 1.0, 2), max_requeues=20) == "ok"
    assert time_level(Plan(2 * 3300 + 1, 1.0, 2), max_requeues=20) == "bad"
    assert time_level(Plan(10, None, 1)) == "warn"


@pytest.mark.parametrize(
    ("deadline", "level"),
    [("2026-12-31T12:00:00", "bad"), ("2027-01-01T12:30:00", "bad"), ("2027-01-01T14:00:00", "ok")],
)
def test_deadline(deadline: str, level: str) -> None:
    assert time_level(Plan(10, 1.0, 1), deadline=deadline) == level


def test_port() -> None:
    assert check_port(0).level == "ok"
    with contextlib.closing(socket.socket()) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        assert check_port(port).level == "bad"
    assert check_port(port).level == "ok"


def test_versions() -> None:
    here = versions()
    assert here["torch"] != "none"
    assert list(differences(here, [here, {**here, "host": "n2"}])) == []
    other = {**here, "host": "n3", "torch": "1.0"}
    (line,) = differences(here, [here, other])
    assert line == f"n3: torch 1.0; expected {here['torch']}"


def test_sources_are_told_apart_by_their_text(tmp_path: Path) -> None:
    source = tmp_path / "spectral" / "modes.py"
    source.parent.mkdir()
    digests = []
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        source.write_text(text)
        digests.append(_source_digest(tmp_path))
    assert digests[0] == digests[2] != digests[1]


def test_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_versions("resonance").level == "ok"
    asked = ["torch>=99", "no-such-library", 'flask>=99; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: asked)
    first, second = unmet_requirements("resonance")
    assert first.startswith("torch ")
    assert second.startswith("no-such-library none")
    assert check_versions("resonance").level == "bad"


def test_judged_work() -> None:
    def good() -> Iterator[str]:
        yield "as it should be"

    def bad() -> Iterator[str]:
        yield "so far"
        raise LaunchError("broken")

    assert judged("x", good(), "repair") == Finding("ok", "x", "as it should be")
    assert judged("x", bad(), "repair") == Finding("bad", "x", "broken", "repair")


def test_report_shows_the_remedy() -> None:
    text = report([Finding("ok", "a", "fine"), Finding("bad", "b", "broken", "repair it")])
    assert "ok   a" in text
    assert "bad  b" in text
    assert "-> repair it" in text


def test_programs() -> None:
    assert call(["cat"], "text") == "text"
    assert call(["sh", "-c", "echo out; echo err >&2"], errors_too=True) == "err\nout\n"
    assert call(["printf", r"\377"]) == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(LaunchError, match="not found on this machine"):
        call(["no-such-program"])
    with pytest.raises(LaunchError, match="status 3: went wrong"):
        call(["sh", "-c", "echo went wrong >&2; exit 3"])
    with pytest.raises(LaunchError, match="no answer"):
        call(["sleep", "5"], timeout_s=0.1)


def test_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submissions.read(tmp_path) == []
    with pytest.raises(LaunchError, match="nothing has been submitted"):
        submissions.read_some(tmp_path)
    jobs = [
        submissions.Submitted("slurm", "12"),
        submissions.Submitted("kubernetes", "job/x", "lab"),
    ]
    for job in jobs:
        submissions.note(tmp_path, job)
    # as the batch script writes it
    with (tmp_path / submissions.NAME).open("a") as file:
        file.write('{"launcher": "slurm", "job": "13"}\n')
    assert submissions.read(tmp_path) == [*jobs, submissions.Submitted("slurm", "13")]
    # a crash has cut a line short
    with (tmp_path / submissions.NAME).open("a") as file:
        file.write('{"launcher": "slu')
    submissions.note(tmp_path, submissions.Submitted("slurm", "14"))
    assert "1 of 4 lines cannot be read; the file is kept as jobs.jsonl" in capsys.readouterr().err
    assert [job.job for job in submissions.read_some(tmp_path)] == ["12", "job/x", "13", "14"]


def test_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "heartbeat"
    liveness.touch()
    monkeypatch.setenv(liveness.HEARTBEAT, str(file))
    monkeypatch.setattr("sys.argv", ["alive", str(file), "60"])
    with pytest.raises(SystemExit, match="no heartbeat yet"):
        liveness.main()
    liveness.touch()
    liveness.main()
    monkeypatch.setenv(liveness.HEARTBEAT, str(file / "below-a-file"))
    liveness.touch()
    liveness.touch()
    assert capsys.readouterr().err.count("no heartbeat") == 1
    old = time.time() - 100
    os.utime(file, (old, old))
    with pytest.raises(SystemExit, match="last heartbeat 100 s ago"):
        liveness.main()
