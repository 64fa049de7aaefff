"""Means of checkpoints: of the newest ones, and the exponential one that training keeps."""

import shutil
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint.load import load_model
from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance
from tests.losses import losses

DECAY = 0.5


@pytest.fixture(scope="module")
def run(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that keeps the checkpoints of all of its six steps."""
    folder = tmp_path_factory.mktemp("averaged")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0)
    flags = ("--checkpoint.every", "1", "--checkpoint.keep-last", "9")
    pretrain_on_two_ranks(run_file, *flags, "--optim.average-decay", str(DECAY))
    return folder / "run"


def _parameters(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(path)[0].state_dict())


def test_the_mean_of_the_newest_checkpoints(run: Path, tmp_path: Path) -> None:
    printed = resonance("checkpoint", "average", run, "--last", 3)
    average = run / "averages" / "steps-4-5-6"
    assert f"{average}: the mean of steps 4, 5, 6" in printed
    assert "step 6 " in printed
    assert "mean " in printed
    models = [_parameters(run / "checkpoints" / f"step-000000{step}") for step in (4, 5, 6)]
    for name, value in _parameters(average).items():
        mean = torch.stack([model[name] for model in models]).double().mean(0).float()
        assert torch.equal(value, mean)
    assert "steps-4-5-6: sound" in resonance("checkpoint", "verify", average)
    evaluated = resonance("evaluate", average, "--no-baselines")
    assert printed.split()[-2] == f"{float(evaluated.split('model')[-1].split()[0]):.4f}"

    # a run may start from it, with new optimizer states
    branch = ("--from", average, "--train.steps", 8, "--train.output", tmp_path / "branch")
    resonance("pretrain", run.parent / "run.toml", *branch)
    assert [each.step for each in losses(tmp_path / "branch") if each.loss is not None] == [7, 8]


def test_the_exponential_average_of_training(run: Path) -> None:
    resonance("checkpoint", "average", run, "--exponential")
    models = [_parameters(run / "checkpoints" / f"step-000000{step}") for step in range(1, 7)]
    for name, value in _parameters(run / "averages" / "steps-6-exponential").items():
        expected = models[0][name]
        for step, model in enumerate(models[1:], start=2):
            expected = expected.lerp(model[name], 1.0 - min(DECAY, (1 + step) / (10 + step)))
        torch.testing.assert_close(value, expected)


def test_averages_that_cannot_be(run: Path, small_corpus: SmallCorpus, tmp_path: Path) -> None:
    printed = resonance("checkpoint", "average", run, "--last", 7, status=1)
    assert f"--last is 7: {run} has 6 checkpoints; expected at most as many" in printed
    printed = resonance("checkpoint", "average", run, "--output", run, status=1)
    assert f"{run} exists already; expected a new folder" in printed

    mixed = tmp_path / "mixed"
    other = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=7)
    resonance("pretrain", other, "--model.num-modes", 2)
    shutil.copytree(run / "checkpoints" / "step-0000006", mixed / "checkpoints" / "step-0000006")
    shutil.copytree(
        tmp_path / "run" / "checkpoints" / "step-0000007", mixed / "checkpoints" / "step-0000007"
    )
    printed = resonance("checkpoint", "average", mixed, "--last", 2, status=1)
    assert "step-0000006: another model: model.num_modes is 4 there, 2 here" in printed
    printed = resonance("checkpoint", "average", tmp_path / "run", "--exponential", status=1)
    assert "optim.average_decay is 0, so there is no exponential average" in printed
