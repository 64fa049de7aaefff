"""Programs that stand in for a cluster's commands, and what was called of them."""

import shlex
import stat
from pathlib import Path

import pytest

from pretrain.cli import main

KUBECTL = """\
case "$1 $2" in
"get pvc") echo persistentvolumeclaim/data ;;
get*) ;;
*) echo done ;;
esac"""
PROGRAMS = {
    "sbatch": "echo 41",
    "sinfo": "echo up",
    "kubectl": KUBECTL,
    "scancel": "",
    "squeue": "",
    "sacct": "exit 1",
}


def write(folder: Path, name: str, text: str) -> None:
    """A shell script that writes its call down and goes on with this text."""
    program = folder / name
    log = shlex.quote(str(folder / "log"))
    program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n{text}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def on_kubernetes(run_file: Path) -> None:
    """Let a run have what Kubernetes needs; its paths are below the claim."""
    table = f'image = "resonance:1"\nclaim = "data"\nmount_path = "{run_file.parent}"'
    run_file.write_text(f"{run_file.read_text()}\n[launch.kubernetes]\n{table}\n")


def listed(job: str, state: str, status: str = "0") -> str:
    """A line of squeue for a job."""
    return f"{job:<32}|{state:<32}|{status:<16}|{'0':<16}|{'n1':<1024}|None"


def know(folder: Path, **states: str) -> None:
    """Let Slurm know jobs by number, as job_41="RUNNING"."""
    jobs = [listed(name.removeprefix("job_"), state) for name, state in states.items()]
    write(folder, "squeue", f"printf '%s\\n' {shlex.join(jobs)}" if jobs else "")


def called(folder: Path) -> list[str]:
    """The calls so far."""
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is to fail; returns what it says."""
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    assert caught.value.code in (1, 2)
    return capsys.readouterr().err
