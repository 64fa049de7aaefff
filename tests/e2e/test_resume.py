"""A run that is killed goes on as if nothing had happened."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT, resonance
from tests.losses import STEPS, Step, losses


@pytest.mark.system
def test_sigkill_and_resume_give_the_same_losses_bit_by_bit(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    killed = tmp_path / "killed"
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=STEPS, output=str(killed))
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
    assert losses(killed)[-1].step < STEPS, "the kill came after the end and shows nothing"

    resonance("launch", "local", run_file, "--resume")
    assert losses(killed) == undisturbed


def test_a_fresh_run_does_not_mix_with_an_earlier_one(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=3)
    missing = resonance("pretrain", run_file, "--resume", status=1)
    assert "no checkpoint; expected a run's directory" in missing
    resonance("pretrain", run_file, "--auto-resume")
    again = resonance("pretrain", run_file, status=1)
    assert "already holds step-0000003" in again
    resonance("pretrain", run_file, "--auto-resume")


def test_after_a_damaged_checkpoint_the_run_keeps_what_it_writes(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=6, validate_every=0)
    resonance("pretrain", run_file)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-0000006" / "state.json").write_text("{}")
    printed = resonance(
        *("pretrain", run_file, "--auto-resume"),
        *("--train.steps", 5, "--checkpoint.every", 1, "--checkpoint.keep-last", 1),
    )
    assert "step-0000006/state.json: found 2 bytes" in printed
    assert f"step-0000006 is renamed to {checkpoints}/step-0000006.damaged" in printed
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {"step-0000005", "step-0000006.damaged"}
    assert "step-0000005: sound" in resonance("checkpoint", "verify", tmp_path / "run")
