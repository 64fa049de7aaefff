"""Commands whose standard streams are closed, full, narrow or of another encoding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import main

COMMAND = f"{sys.executable} -m pretrain.cli"


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `resonance` is the command; no test may wait for long."""
    return subprocess.run(
        ["bash", "-c", shell.replace("resonance", COMMAND)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("command", ["data build --help", "launch slurm {run}"])
@pytest.mark.parametrize(
    ("stream", "reason"), [("/dev/full", "No space left on device"), ("&-", "Bad file descriptor")]
)
def test_output_that_cannot_be_written_is_an_error(
    command: str, stream: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('[data]\ndatasets = [{ path = "train" }]\n')
    result = run(f"resonance {command.format(run=tmp_path / 'run.toml')} >{stream}")
    assert result.returncode == 1
    assert result.stderr.endswith(f"resonance: standard output cannot be written ({reason})\n")


@pytest.mark.parametrize("stream", ["/dev/full", "&-"])
def test_an_error_that_nobody_can_read_has_its_status(stream: str) -> None:
    result = run(f"resonance plan absent.toml 2>{stream}")
    assert (result.returncode, result.stdout) == (1, "")


def test_a_closed_stream_is_not_given_to_a_file(tmp_path: Path) -> None:
    # the first file that is opened would be standard error, and receive its messages
    program = (
        "from pretrain.terminal import standard_streams\n"
        "with standard_streams(may_lose_output=False):\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    raise SystemExit(file.fileno() < 3)\n"
    )
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        assert run(f"{sys.executable} -c {program!r} {closed}".replace("\\n", "\n")).returncode == 0


@pytest.mark.parametrize("columns", ["1", "1000000000"])
def test_help_ends_at_any_width(columns: str) -> None:
    result = run("resonance generate --help", COLUMNS=columns)
    assert result.returncode == 0
    assert "--temperature" in result.stdout
    assert len(result.stdout) < 100_000


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path) -> None:
    result = run(f"cd {tmp_path}; resonance plan $'\\xff\\xfe.toml'", PYTHONPATH=str(Path.cwd()))
    assert result.returncode == 1
    assert result.stderr == "resonance plan: \\udcff\\udcfe.toml: no such run file\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (RecursionError("too\ndeep"), "RecursionError: too"),
        (MemoryError(), "out of memory"),
    ],
)
@pytest.mark.parametrize("wanted", ["", "1"])
def test_an_error_that_no_check_foresees_is_a_message(
    error: Exception,
    message: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_command: object) -> None:
        raise error

    file = tmp_path / "run.toml"
    file.touch()
    monkeypatch.setattr("pretrain.planning.plan.plan", fail)
    monkeypatch.setenv("RESONANCE_TRACEBACK", wanted)
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(file)])
    assert stop.value.code == 1
    line = f"resonance plan: {file}: {message}; RESONANCE_TRACEBACK=1 shows where\n"
    printed = capsys.readouterr().err
    assert printed.endswith(line)
    assert printed.startswith("Traceback" if wanted else "resonance")
