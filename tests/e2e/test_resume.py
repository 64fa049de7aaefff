"""A run that is killed goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT, resonance


def _losses(run: Path) -> list[tuple[float, ...]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r.get("loss"), r.get("grad_norm"), r.get("valid_loss")) for r in records]


def test_sigkill_and_resume_give_the_same_losses_bit_by_bit(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    steps = 30
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=steps, output=str(whole))
    resonance("launch", "local", run_file)

    small_corpus.run_file(run_file, steps=steps, output=str(killed))
    process = subprocess.Popen(
        [*COMMAND, "launch", "local", str(run_file)], env=ENVIRONMENT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-0000003").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert _losses(killed)[-1][0] < steps, "the kill came after the end and shows nothing"

    resonance("launch", "local", run_file, "--resume")
    assert _losses(killed) == _losses(whole)


def test_a_fresh_run_does_not_mix_with_an_earlier_one(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=3)
    missing = resonance("pretrain", run_file, "--resume", status=1)
    assert "no checkpoint; expected a run's directory" in missing
    resonance("pretrain", run_file, "--auto-resume")
    again = resonance("pretrain", run_file, status=1)
    assert "already holds step-0000003" in again
    resonance("pretrain", run_file, "--auto-resume")
