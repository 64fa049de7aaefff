"""Bad steps are passed over by all ranks together, at every ZeRO stage, as if never read."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from launch.json_lines import read_lines
from pretrain.config import RunConfig
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

STAGES = (0, 1, 2, 3)
BAD_WINDOW = 4
STEPS = 7
# what the guard is told to do
CASES = {"nan": {"on_nonfinite": "skip"}, "gradient": {"on_nonfinite": "rollback"}}
SPIKE = {"on_spike": "rollback", "spike_history": 10, "spike_rise": 0.2}


def _spoiled(loader: Any, window: int, spoiled: list[Any]) -> Iterator[Any]:
    """The loader's steps; remembers what one rank reads first in a window."""
    for number, batches in enumerate(type(loader).__iter__(loader)):
        if number == window:
            spoiled.append(batches[0].documents)
        yield batches


def _spoil(loss: Any, kind: str) -> Any:
    if kind == "gradient":
        # a finite loss
        loss.nll.register_hook(lambda gradient: gradient * math.inf)
        return loss
    return loss._replace(nll=loss.nll * (math.nan if kind == "nan" else 3.0))


def _train(rank: int, run: RunConfig, window: int, kind: str) -> None:
    """Train with rank 1's loss or gradient spoiled in one window of the data."""
    from pretrain.loss import batch_loss
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    trainer = Trainer(run, init_ranks())
    spoiled: list[Any] = []
    steps = _spoiled(trainer.loader, window, spoiled)

    def loss(engine: Any, batch: Any) -> Any:
        bad = rank == 1 and any(batch.documents is documents for documents in spoiled)
        value = batch_loss(engine, batch)
        return _spoil(value, kind) if bad else value

    loader = mock.MagicMock(wraps=trainer.loader)
    loader.read.side_effect = lambda num_steps: itertools.islice(steps, num_steps)
    trainer.loader = loader
    with mock.patch("pretrain.training.gradient.batch_loss", loss):
        trainer.train()
    trainer.engine.destroy()


def _train_without(run: RunConfig, windows: set[int]) -> None:
    """Train on a stream that has no such windows."""
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    trainer = Trainer(run, init_ranks())
    for number, batches in enumerate(trainer.loader):
        if number not in windows:
            trainer.train_step(batches)
        if trainer.progress.step == run.train.steps:
            break
    trainer.journal.close()
    trainer.engine.destroy()


def _train_pipeline(run: RunConfig, *, spoil: bool) -> None:
    """Train with the second micro-batch of one window spoiled, or without that window."""
    from pretrain.loss import objective
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    if not spoil:
        _train_without(run, {BAD_WINDOW})
        return
    calls = itertools.count()
    bad = BAD_WINDOW * run.train.global_batch_size + 1

    def spoiled(loss: Any, num_labels: int) -> Any:
        return objective(loss, num_labels) * (math.nan if next(calls) == bad else 1.0)

    trainer = Trainer(run, init_ranks())
    with mock.patch("pretrain.parallel.pipeline_parallel.objective", spoiled):
        trainer.train()
    trainer.engine.destroy()


def _train_all(rank: int, runs: dict[str, RunConfig]) -> None:
    for name, run in runs.items():
        kind = name.split("-")[0]
        if run.parallel.pipeline > 1:
            _train_pipeline(run, spoil=kind == "nan")
            continue
        if kind == "without":
            # windows 3 and 4 come after the checkpoint of step 3
            _train_without(run, {BAD_WINDOW})
        elif kind == "rewound":
            _train_without(run, {BAD_WINDOW - 1, BAD_WINDOW})
        elif kind == "spike":
            _train(rank, run, 11, kind)
        elif kind == "spared":
            _train_without(run, {9, 10, 11})
        else:
            _train(rank, run, BAD_WINDOW, kind)


@pytest.fixture(scope="module")
def folder(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of all runs: every case at every stage, and its reference."""
    folder = tmp_path_factory.mktemp("guard")
    base = load_run(small_corpus.run_file(folder / "run.toml", steps=STEPS, validate_every=0))

    def run(name: str, stage: int, steps: int = STEPS, **guard: object) -> RunConfig:
        values = base.model_dump()
        values["train"] |= {"output": folder / name, "steps": steps}
        values["data"] |= {"num_workers": 0, "valid": ""}
        values["parallel"] |= {"zero_stage": stage}
        values["guard"] |= guard
        return RunConfig.model_validate(values)

    runs = {}
    for stage in STAGES:
        for kind, guard in CASES.items():
            runs[f"{kind}-{stage}"] = run(f"{kind}-{stage}", stage, **guard)
        for kind in ("without", "rewound"):
            runs[f"{kind}-{stage}"] = run(f"{kind}-{stage}", stage)
    for kind in ("nan", "without"):
        piped = run(f"{kind}-pipeline", 1, **CASES["nan"])
        layout = piped.parallel.model_copy(update={"pipeline": 2})
        runs[f"{kind}-pipeline"] = piped.model_copy(update={"parallel": layout})
    runs["spike"] = run("spike", 1, 13, **SPIKE)
    runs["spared"] = run("spared", 1, 13)
    run_ranks(_train_all, 2, folder, runs)
    return folder


def _numbers(run: Path) -> list[tuple[float, ...]]:
    records = read_lines(run / "metrics.jsonl")
    return [(r["step"], r["loss"], r["grad_norm"], r["learning_rate"]) for r in records]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("kind", "reference"), [("nan", "without"), ("gradient", "rewound")])
def test_the_run_goes_on_as_if_the_data_had_not_been_there(
    kind: str, reference: str, stage: int, folder: Path
) -> None:
    found = _numbers(folder / f"{kind}-{stage}")
    assert [step for step, *_ in found] == list(range(1, STEPS + 1))
    assert found == _numbers(folder / f"{reference}-{stage}")


def test_a_pipeline_passes_over_a_bad_step(folder: Path) -> None:
    assert _numbers(folder / "nan-pipeline") == _numbers(folder / "without-pipeline")
    (record,) = read_lines(folder / "nan-pipeline" / "audit.jsonl")
    assert (record["step"], record["action"]) == (BAD_WINDOW + 1, "skip")


def test_a_spike_is_rolled_back(folder: Path) -> None:
    assert _numbers(folder / "spike") == _numbers(folder / "spared")
    (record,) = read_lines(folder / "spike" / "audit.jsonl")
    assert (record["step"], record["action"]) == (12, "rollback")
    assert "expected at most" in record["reason"]


def test_the_offending_documents_are_written_down(folder: Path) -> None:
    (record,) = read_lines(folder / "nan-1" / "audit.jsonl")
    assert record["step"] == BAD_WINDOW + 1
    assert (record["reason"], record["action"]) == ("the loss is nan", "skip")
    # one micro-batch of one rank, of four in the step
    (batch,) = record["batches"]
    assert (batch["rank"], batch["number"], batch["loss"]) == (1, 0, None)
    assert batch["documents"] == _documents(folder)

    (record,) = read_lines(folder / "gradient-1" / "audit.jsonl")
    assert record["reason"].startswith("the norm of the gradient is")
    assert [(batch["rank"], batch["number"]) for batch in record["batches"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def _documents(folder: Path) -> list[Any]:
    """What the first row of rank 1 holds in the bad window, read anew."""
    from data_pipeline.stream.loader import build_train_loader

    run = load_run(folder / "nan-1" / "run.toml")
    loader = build_train_loader(
        run.data, global_batch_size=4, micro_batch_size=1, data_rank=1, data_ranks=2
    )
    for number, batches in enumerate(loader):
        if number == BAD_WINDOW:
            return json.loads(json.dumps(batches[0].documents))
    raise AssertionError("unreachable: the loader is endless")
