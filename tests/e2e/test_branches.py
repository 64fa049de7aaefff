"""Branches: runs of their own that start from a checkpoint of another run."""

import shutil
from pathlib import Path

import pytest

from pretrain.run_file import load_saved_run
from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance
from tests.losses import losses

DECAY = ("--optim.schedule", "linear", "--train.steps", "9")


@pytest.fixture(scope="module")
def parent(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file whose run, beside it, has six steps at a constant rate."""
    folder = tmp_path_factory.mktemp("parent")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0, steps=6)
    text = run_file.read_text().replace("[optim]", '[optim]\nschedule = "constant"')
    run_file.write_text(text)
    resonance("pretrain", run_file)
    return run_file


def test_a_branch_decays_from_its_checkpoint_in_a_folder_of_its_own(
    parent: Path, tmp_path: Path
) -> None:
    run = parent.parent / "run"
    checkpoint = run / "checkpoints" / "step-0000003"
    before = losses(run)
    printed = resonance("pretrain", parent, "--from", checkpoint, *DECAY)
    branch = parent.parent / "run-from-3"
    for line in (
        f"resumed from {checkpoint}",
        "optim.schedule was constant and is now linear: the learning rate stays 0.001 in step 4",
        "optim.decay_start was 0 and is now 3",
        "train.branch_from",
    ):
        assert line in printed
    assert losses(run) == before
    # a decay to a tenth from step 3 to step 9
    saved = load_saved_run(branch / "checkpoints" / "step-0000009")
    assert (saved.optim.decay_start, saved.train.branch_from) == (3, str(checkpoint))
    found = losses(branch)
    assert [each.step for each in found if each.loss is not None] == [4, 5, 6, 7, 8, 9]

    # as if the parent had been resumed with the same keys
    resumed = tmp_path / "resumed"
    shutil.copytree(checkpoint, resumed / "checkpoints" / checkpoint.name)
    flags = ("--optim.decay-start", "3", "--train.output", resumed)
    resonance("pretrain", parent, "--resume", *DECAY, *flags)
    steps = [each for each in losses(resumed) if each.step > 3]
    assert steps == [each for each in found if each.step > 3]

    # and resumed from its middle, it ends alike, whatever became of the parent's checkpoint
    shutil.rmtree(branch / "checkpoints" / "step-0000009")
    moved = checkpoint.with_name("elsewhere")
    flags = ("--train.branch-from", str(checkpoint), "--train.output", branch)
    checkpoint.rename(moved)
    resonance("pretrain", parent, "--auto-resume", *DECAY, *flags)
    moved.rename(checkpoint)
    assert losses(branch) == found


def test_a_branch_starts_on_other_ranks_by_its_run_file(parent: Path, tmp_path: Path) -> None:
    flags = ("--train.branch-from", str(parent.parent / "run"), "--train.output", str(tmp_path))
    pretrain_on_two_ranks(parent, *flags, "--train.steps", "8")
    assert [each.step for each in losses(tmp_path) if each.loss is not None] == [7, 8]


def test_branches_that_cannot_be(parent: Path, tmp_path: Path) -> None:
    run = parent.parent / "run"
    other = ("--train.output", tmp_path / "branch")
    for flags, message in (
        (("--from", tmp_path), "no checkpoint; expected a run's directory"),
        (("--from", run), "train.steps is 6 in a branch of"),
        (("--from", run, "--train.steps", 9, "--model.dim", 64), "model.dim is 32 there, 64 here"),
        (
            (
                "--from",
                run,
                "--train.steps",
                9,
                "--optim.schedule",
                "wsd",
                "--optim.decay-steps",
                8,
            ),
            "expected a decay of at most 7 steps, or train.steps 10",
        ),
    ):
        printed = resonance("pretrain", parent, *flags, *other, status=(2 if "wsd" in flags else 1))
        assert message in printed
        assert "Traceback" not in printed
    assert not (tmp_path / "branch" / "checkpoints").exists()
    assert not (tmp_path / "branch" / "metrics.jsonl").exists()
