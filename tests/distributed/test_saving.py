"""Saving against kills, full disks and writers that fail in the background."""

import json
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.checkpoint.remote import newest_remote
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks
from tests.e2e.commands import ENVIRONMENT
from tests.object_store import object_store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_while_saving_loses_nothing(
    rounds: int, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", micro_batch_size=4)
    run_file.write_text(run_file.read_text() + "\n[parallel]\nzero_stage = 0\n")
    result = subprocess.run(
        [sys.executable, "-m", "tests.distributed.killed_saver", str(run_file), str(rounds)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    hit = re.search(rf"(\d+) of {rounds} kills hit", result.stdout)
    assert hit, result.stdout
    assert int(hit[1]) >= rounds / 4, "too few kills fell into a save to show anything"


def _train_with_a_failing_writer(rank: int, run_file: Path, on_error: str) -> None:
    """Rank 1's file cannot be written at step 3; what happened is written down."""
    import pretrain.checkpoint.save as saving
    from pretrain.config import RunConfig
    from pretrain.errors import CheckpointError
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    class Failing(saving.JsonIndexWriter):
        def write_data(self, *arguments: Any) -> Any:
            if rank == 1 and "step-0000003" in str(self.path):
                raise OSError(28, "No space left on device")
            return super().write_data(*arguments)

    saving.JsonIndexWriter = Failing  # type: ignore[misc]
    values = load_run(run_file).model_dump()
    values["checkpoint"] |= {"on_error": on_error}
    values["data"] |= {"num_workers": 0, "valid": ""}
    run = RunConfig.model_validate(values)
    trainer = Trainer(run, init_ranks())
    try:
        trainer.train()
        outcome = "trained"
    except CheckpointError as error:
        outcome = f"agreed: {error.agreed}; step {trainer.progress.step}; {error}"
    trainer.engine.destroy()
    (run.train.output / f"outcome-{rank}.json").write_text(json.dumps(outcome))


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_writer_that_fails_is_heard_by_all_ranks_at_the_next_step(
    on_error: str, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=6)
    run_ranks(_train_with_a_failing_writer, 2, tmp_path, run_file, on_error)
    outcomes = [json.loads(p.read_text()) for p in sorted((tmp_path / "run").glob("outcome-*"))]
    left = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    if on_error == "continue":
        assert outcomes == ["trained"] * 2
        assert left == ["step-0000006"]
        return
    assert left == []
    for outcome in outcomes:
        # a small checkpoint may fail before or after the step that follows it has begun
        assert re.match(r"agreed: True; step [3-6]; ", outcome), outcome
        assert "rank 1 could not write it: [Errno 28] No space left on device" in outcome
        assert "earlier checkpoints are untouched" in outcome


def _train_with_a_slow_store(rank: int, run_file: Path, upload_s: float, timeout_s: float) -> None:
    """Groups other than the first have a short timeout; the store takes longer.

    The writer's own is to be much longer than that of training.
    """
    import torch.distributed as dist

    import pretrain.checkpoint.retention as keeping
    from pretrain.checkpoint.save import TIMEOUT
    from pretrain.runtime.ranks import DEFAULT_TIMEOUT_S, init_ranks
    from pretrain.training.trainer import Trainer

    new_group, asked = dist.new_group, []

    def short(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("timeout"))
        return new_group(*arguments, **options | {"timeout": timedelta(seconds=timeout_s)})

    dist.new_group = short  # type: ignore[assignment]
    upload = keeping.upload

    def slow(*arguments: Any) -> None:
        time.sleep(upload_s)
        upload(*arguments)

    keeping.upload = slow
    run = load_run(run_file)
    trainer = Trainer(run, init_ranks())
    assert asked.count(TIMEOUT) == 1
    assert TIMEOUT.total_seconds() > 10 * DEFAULT_TIMEOUT_S
    trainer.train()
    trainer.engine.destroy()
    (run.train.output / f"outcome-{rank}.json").write_text(json.dumps(trainer.progress.step))


def test_a_slow_upload_holds_no_other_rank_in_a_collective(
    small_corpus: SmallCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=3)
    with object_store("runs", monkeypatch) as endpoint:
        text = run_file.read_text().replace(
            "[checkpoint]", '[checkpoint]\nremote = "s3://runs/one"\non_error = "stop"'
        )
        run_file.write_text(f'{text}\n[data.storage]\nendpoint_url = "{endpoint}"\n')
        run_ranks(_train_with_a_slow_store, 2, tmp_path, run_file, 8.0, 4.0)
        run = load_run(run_file)
        assert newest_remote("s3://runs/one", run.data.storage).endswith("step-0000003")
    outcomes = [json.loads(p.read_text()) for p in sorted((tmp_path / "run").glob("outcome-*"))]
    assert outcomes == [3, 3]
