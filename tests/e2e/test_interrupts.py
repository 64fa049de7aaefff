"""Ctrl-C and a terminal that closes: the run is saved, and a second Ctrl-C ends it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.torchrun import REQUEUE_STATUS
from pretrain.runtime.interrupts import FIRST, INTERRUPTED_STATUS, SECOND
from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT
from tests.e2e.runs import STARTED, Run
from tests.losses import Step, losses

pytestmark = pytest.mark.system


def test_a_second_interrupt_ends_the_run_at_once(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault="slow save")
    run.wait_until(lambda: (run.output / "checkpoints/.step-0000006.partial").exists())
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    run.wait_until(lambda: FIRST in run.printed())
    assert run.signalled(signal.SIGINT) == INTERRUPTED_STATUS, run.printed()
    assert SECOND in run.printed()
    assert "step-0000003" in run.checkpoints()
    assert "step-0000006" not in run.checkpoints()
    run.start()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminal_stops_a_run_of_one_process(
    number: signal.Signals, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=10_000, validate_every=0)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "pretrain", str(run_file)], env=ENVIRONMENT, stderr=log, process_group=0
        )
    STARTED.append(process)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # its reader is in the same group
    os.killpg(process.pid, number)
    assert process.wait(40) == REQUEUE_STATUS, (tmp_path / "log").read_text()
    last = losses(tmp_path / "run")[-1].step
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:07d}" / "manifest.json").exists()
    printed = (tmp_path / "log").read_text()
    assert f"asked to stop: step {last} is saved; --resume continues" in printed
    assert (FIRST in printed) == (number == signal.SIGINT)
