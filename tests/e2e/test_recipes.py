"""Recipes of training from end to end: resumed bit by bit, and changed on the way."""

import shutil
from pathlib import Path

import pytest

from pretrain.monitoring.jsonl import read_metrics
from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance
from tests.losses import Step, losses


def _without_the_end(run: Path) -> None:
    """The run as a kill after its third step leaves it."""
    shutil.rmtree(run / "checkpoints" / "step-0000006")


def test_muon_on_two_ranks_resumes_bit_by_bit(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0)
    flags = ("--optim.name", "muon")
    pretrain_on_two_ranks(run_file, *flags)
    run = tmp_path / "run"
    undisturbed = losses(run)
    assert "checkpoints/step-0000006: sound" in resonance("checkpoint", "verify", run)
    _without_the_end(run)
    pretrain_on_two_ranks(run_file, *flags, "--resume")
    assert losses(run) == undisturbed


def test_another_optimizer_begins_its_state_again(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0)
    muon = ("--optim.name", "muon")
    resonance("pretrain", run_file)
    printed = resonance("pretrain", run_file, "--resume", *muon, "--train.steps", 9)
    assert (
        "optim.name was adamw and is now muon: parameters stay, and the optimizer's state "
        "(momentum and second moments of all parameters) is begun again" in printed
    )
    run = tmp_path / "run"
    assert "step-0000009: sound" in resonance("checkpoint", "verify", run)
    tree = resonance("checkpoint", "inspect", run)
    assert "value, exp_avg, exp_avg_sq, step, momentum_buffer" in tree
    # and back: what AdamW begins with is what it would have without a past
    resonance("pretrain", run_file, "--resume", "--train.steps", 12)
    assert [each.step for each in losses(run) if each.loss is not None] == list(range(1, 13))
    assert "step-0000012: sound" in resonance("checkpoint", "verify", run)


def test_smaller_steps_at_the_start_are_the_same_on_any_ranks(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=1)
    # 2 windows of 48 tokens, 2 of 96, then 4 of 96
    flags = ("--train.batch-warmup", "3", "2", "--train.length-warmup", "1", "32", "2", "48")
    flags += ("--optim.schedule-by", "tokens")
    run, alone = tmp_path / "run", tmp_path / "alone"
    pretrain_on_two_ranks(run_file, *flags)
    records = [r for r in read_metrics(run / "metrics.jsonl") if "loss" in r]
    assert [r["step_tokens"] for r in records] == [64, 96, 192, 384, 384, 384]
    rates = [r["learning_rate"] for r in records[:3]]
    # a warm-up over two steps of 160 tokens
    assert rates == pytest.approx([1e-3 * 64 / 160, 1e-3, 1e-3])
    undisturbed = losses(run)
    _without_the_end(run)
    pretrain_on_two_ranks(run_file, *flags, "--resume")
    assert losses(run) == undisturbed

    resonance("pretrain", run_file, *flags, "--train.output", alone)
    stages = ("--parallel.pipeline", "2", "--train.output", str(tmp_path / "stages"))
    pretrain_on_two_ranks(run_file, *flags, *stages)
    for other in (alone, tmp_path / "stages"):
        _assert_alike(losses(other), undisturbed)


def _assert_alike(found: list[Step], expected: list[Step]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert one.step == two.step
        assert (one.loss or one.valid_loss) == pytest.approx(two.loss or two.valid_loss, rel=1e-5)


def test_smaller_steps_that_ranks_cannot_share(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0)
    printed = resonance(
        *("pretrain", run_file, "--train.micro-batch-size", 2, "--train.batch-warmup", 3, 3),
        status=2,
    )
    assert "train.batch_warmup has 3 windows before step 3; expected a multiple of" in printed


def test_the_gradient_noise_scale_is_that_of_single_micro_batches(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=6)
    flags = ("--monitor.noise-every", "2")
    pretrain_on_two_ranks(run_file, *flags, "--parallel.zero-stage", "3")
    records = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records if "gradient_variance" in r] == [2, 4, 6]
    # as on one rank, whatever the stage, and after a resumption
    undisturbed = _noise(tmp_path / "run")
    _without_the_end(tmp_path / "run")
    resonance("pretrain", run_file, *flags, "--resume")
    assert _noise(tmp_path / "run") == pytest.approx(undisturbed, rel=1e-3)


def _noise(run: Path) -> list[float]:
    records = read_metrics(run / "metrics.jsonl")
    return [r[k] for r in records for k in ("gradient_variance", "gradient_signal") if k in r]


def test_muon_with_experts_on_two_ranks(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run_file = small_corpus.run_file(
        tmp_path / "run.toml", model='feed_forward = "experts"', workers=0
    )
    flags = ("--optim.name", "muon", "--model.experts.count", "4")
    pretrain_on_two_ranks(run_file, *flags, "--parallel.expert", "2")
    shared = losses(tmp_path / "run")
    resonance("pretrain", run_file, *flags, "--train.output", tmp_path / "alone")
    _assert_alike(losses(tmp_path / "alone"), shared)
