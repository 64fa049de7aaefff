"""Runs that are resumed: after a kill, with damaged files or other keys, after their end."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.run_file import load_saved_run
from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT, files_below, resonance
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


@pytest.fixture(scope="module")
def finished(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file whose run, beside it, is finished."""
    folder = tmp_path_factory.mktemp("finished")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0, steps=6)
    resonance("pretrain", run_file)
    return run_file


def _copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent / "run", tmp_path / "run")
    text = finished.read_text().replace(str(finished.parent), str(tmp_path))
    (tmp_path / "run.toml").write_text(text)
    return tmp_path / "run.toml"


def test_a_finished_run_says_so_and_is_left_alone(finished: Path) -> None:
    output = finished.parent / "run"

    def times() -> dict[Path, int]:
        # each start takes the run's lock
        files = (file for file in output.rglob("*") if "lock" not in file.parts)
        return {file: file.stat().st_mtime_ns for file in files}

    before = times()
    for option in ("--resume", "--auto-resume"):
        printed = resonance("pretrain", finished, option)
        assert "step-0000006 is of step 6 and train.steps is 6" in printed
        assert "nothing left to do" in printed
    assert times() == before


def test_damaged_run_files_do_not_prevent_resuming(finished: Path, tmp_path: Path) -> None:
    run_file = _copy(finished, tmp_path)
    output = tmp_path / "run"
    metrics = output / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([lines[0], "}{\n", *lines[1:]]))
    (output / "audit.jsonl").write_bytes(b"\0" * 100)
    (output / "loss.png").unlink()
    (output / "loss.png").mkdir()
    (output / "run.toml").unlink()
    (output / "run.toml").mkdir()
    for name in ("heartbeat", "errors", "hangs", "wandb_id"):
        shutil.rmtree(output / name, ignore_errors=True)
        (output / name).write_text("")
    (output / "wandb_id").write_text("\n")
    wandb = ("--train.wandb", "auto")
    printed = resonance("pretrain", run_file, "--resume", "--train.steps", 8, *wandb)
    assert f"{metrics}: 1 of 9 lines cannot be read; the file is kept as metrics" in printed
    assert f"{output / 'audit.jsonl'}: 1 of 1 lines cannot be read" in printed
    for name in ("wandb_id: no id of W&B", "run.toml: ", "loss.png: ", "rank 0: no heartbeat"):
        assert name in printed
    assert [record.step for record in losses(output)] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]
    assert (output / "checkpoints" / "step-0000008" / "manifest.json").exists()


def test_changed_keys_are_named_with_their_consequence(finished: Path, tmp_path: Path) -> None:
    run_file = _copy(finished, tmp_path)
    changes = {
        "train.steps": 9,
        "train.micro-batch-size": 2,
        "train.validate-every": 0,
        "optim.beta1": 0.8,
        "data.sequence-length": 48,
    }
    flags = [word for key, value in changes.items() for word in (f"--{key}", value)]
    printed = resonance("pretrain", run_file, "--resume", *flags)
    # the floor of the schedule, and the middle of its decay
    factor = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-3])
    changed = f"the learning rate of step 7 changes from 0.0001 to {factor['learning_rate']:.4g}"
    for line in (
        f"train.steps was 6 and is now 9: {changed}",
        "train.micro_batch_size was 1 and is now 2: rounding differs",
        "train.validate_every was 3 and is now 0: it applies to the validations from now on",
        "optim.beta1 was 0.9 and is now 0.8: later steps use the new value",
        "data.sequence_length was 96 and is now 48: later windows have the new length",
    ):
        assert line in printed
    assert printed.count(" and is now ") == len(changes) + 1
    assert [record.valid_loss for record in losses(tmp_path / "run") if record.step > 6] == [
        None
    ] * 3


def test_a_longer_context_keeps_the_model(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run_file = small_corpus.run_file(
        tmp_path / "run.toml", model='mixers = ["fft"]', workers=0, steps=3
    )
    resonance("pretrain", run_file)
    longer = ("--data.sequence-length", 384, "--train.steps", 4)
    printed = resonance("pretrain", run_file, "--resume", *longer)
    assert "4 x 384 tokens per step, resumed from" in printed
    saved = [load_saved_run(each) for each in list_checkpoints(tmp_path / "run")]
    assert [run.model.fft.chunk for run in saved] == [16, 16]
    printed = resonance(
        "pretrain", run_file, "--resume", *longer, "--model.fft.chunk", 64, status=1
    )
    assert "another model: model.fft.chunk is 16 there, 64 here" in printed
    fresh = ("--train.output", tmp_path / "other", "--model.fft.chunk", 96)
    printed = resonance("pretrain", run_file, *fresh, status=1)
    assert "expected a chunk of at most 95, better 16, or longer sequences" in printed


def test_a_validation_reads_as_many_batches_as_asked_for(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=3)
    values = []
    for batches, micro in ((0, 1), (1, 1), (1, 4), (10_000, 1)):
        output = tmp_path / f"{batches}-{micro}"
        flags = ("--train.validate-batches", batches, "--train.micro-batch-size", micro)
        resonance("pretrain", run_file, *flags, "--train.output", output)
        values.append(losses(output)[-1].valid_loss)
    assert values[0] == values[3]
    assert values[1] == pytest.approx(values[2], rel=1e-5)
    assert values[1] != pytest.approx(values[0], rel=1e-4)


def test_an_empty_split_is_found_before_the_first_step(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    source = tmp_path / "one.txt"
    source.write_text("a single document\n" * 50)
    built = resonance(
        *("data", "build", "--sources", source, "--tokenizer", small_corpus.tokenizer),
        *("--output", tmp_path / "data"),
    )
    assert f"{tmp_path / 'data'}/valid: empty: valid_fraction is 0.05 of 1 documents" in built
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=3)
    empty = tmp_path / "data" / "valid"
    printed = resonance("pretrain", run_file, "--data.valid", empty, status=1)
    assert f"{empty}: its manifest lists 0 tokens in 0 documents" in printed
    assert not (tmp_path / "run").exists()
    resonance("pretrain", run_file, "--data.valid", empty, "--train.validate-every", 0)
    assert files_below(tmp_path / "run" / "checkpoints")


@pytest.mark.parametrize("workers", [0, 1])
def test_weights_after_the_last_step_do_not_matter_and_others_are_checked_at_once(
    workers: int, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=workers, steps=3)
    text = run_file.read_text()

    def with_corners(corners: str) -> None:
        path = json.dumps(str(small_corpus.train))
        datasets = f"datasets = [{{ path = {path}, schedule = [{corners}] }}]"
        run_file.write_text(text.replace(f"datasets = [{{ path = {path} }}]", datasets))

    with_corners("{step = 0, weight = 1}, {step = 2, weight = 0}, {step = 4, weight = 1}")
    printed = resonance("pretrain", run_file, status=1)
    assert "all weights are 0 at step 2 (counted from 0)" in printed
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with_corners("{step = 2, weight = 1}, {step = 3, weight = 0}")
    resonance("pretrain", run_file)
    assert losses(tmp_path / "run")[-1].step == 3


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
