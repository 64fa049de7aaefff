"""The steps, the time and the bytes that a run still needs."""

from pathlib import Path

import pytest

from pretrain.config import CheckpointConfig, RunConfig
from pretrain.submit.remaining_work import checkpoint_bytes, longest_plan
from pretrain.train_config import TrainConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM


def make_run(output: Path, steps: int = 1000, **checkpoint: int) -> RunConfig:
    return RunConfig(
        model=ModelConfig(num_layers=1),
        train=TrainConfig(output=output, steps=steps),
        checkpoint=CheckpointConfig(**checkpoint),
    )


def leave(run: RunConfig, *steps: int) -> None:
    """Leave checkpoints behind."""
    for step in steps:
        folder = run.train.output / f"checkpoints/step-{step:07d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")


def checkpoints(run: RunConfig) -> float:
    """The bytes to come in checkpoints."""
    # float32: the parameter and AdamW's two moments
    size = sum(one.numel() for one in SpectralLM(run.model).parameters()) * 3 * 4
    needed = checkpoint_bytes(run)
    assert needed is not None
    return needed / size


@pytest.mark.parametrize(
    ("config", "done", "expected"),
    [
        ({"keep_last": 2}, [], 3),
        ({"keep_last": 2}, [100, 200], 1),
        ({"keep_last": 2}, [100, 200, 300], 1),
        ({"keep_last": 1, "keep_every": 100, "every": 100}, [], 2 + 10),
        ({"keep_last": 1, "keep_every": 100, "every": 100}, [800], 2 + 2),
        ({"keep_last": 2, "keep_every": 500, "every": 100}, [500, 600], 2 + 1),
        # every second checkpoint is one of a step that is kept
        ({"keep_last": 1, "keep_every": 100, "every": 50}, [], 2 + 10),
        ({"keep_last": 1, "keep_every": 50, "every": 100}, [], 2 + 10),
        ({"keep_last": 1, "keep_every": 100, "every": 0}, [], 2),
    ],
)
def test_checkpoints_to_come(
    tmp_path: Path, config: dict[str, int], done: list[int], expected: int
) -> None:
    run = make_run(tmp_path / "run", **config)
    leave(run, *done)
    assert checkpoints(run) == expected


def test_time_of_a_sweep_is_that_of_its_longest_task(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    leave(runs[0], 400)
    for run, speed in zip(runs, (400.0, 100.0), strict=True):
        run.train.output.mkdir(exist_ok=True)
        numbers = '"step": 1, "tokens": 400, "step_tokens": 400'
        line = f'{{{numbers}, "tokens_per_s": {speed}}}\n'
        # a line that a crash has damaged
        (run.train.output / "metrics.jsonl").write_text("{\n" + line)
    assert longest_plan(runs, 1) == (1000, 4.0, 1)
