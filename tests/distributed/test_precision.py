"""Half precision: recomputed as it was computed, and equal to one rank's in every layout.

float16 has a loss scale; in bfloat16 matrices and their gradients travel rounded.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config import RunConfig
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.timeout(900)
STEPS = 4
# no float16 gradient survives this factor: the first attempts must fail
TOO_HIGH = 2.0**40
LAYOUTS: dict[str, dict[str, object]] = {
    "zero-0": {"zero_stage": 0},
    "zero-2": {"zero_stage": 2},
    "zero-3": {"zero_stage": 3},
    "tensor": {"tensor": 2},
    "sequence": {"sequence": 2},
    "pipeline": {"pipeline": 2},
}
BF16 = {f"bf16-{name}": keys for name, keys in LAYOUTS.items() if name != "zero-0"}
BF16 |= {
    "bf16-zero-1": {"zero_stage": 1},
    "bf16-offload": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    "bf16-shards": {"tensor": 2, "shard_activations": True},
}
# its groups are divided once more there, and are clipped as if they were not
MUON = {"name": "muon", "clip": "groups", "clip_norm": 0.1}
MUON_STAGES = (2, 3)


def _train(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    from pretrain.checkpoint.catalog import find_newest
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    ranks = init_ranks()
    for name, run in runs.items():
        trainer = Trainer(run, ranks)
        records = []
        for batches in trainer.loader:
            records.append(trainer.train_step(batches))
            if trainer.progress.step == STEPS:
                break
        valid = trainer.measurements.validate()["valid_loss"]
        trainer.save(needed=True)
        trainer.engine.destroy()
        scales = [trainer.loss_scale.value]
        if run.train.precision == "fp16":
            again = Trainer(run, ranks, find_newest(run.train.output))
            scales.append(again.loss_scale.value)
            again.engine.destroy()
        torch.save((records, valid, scales), folder / f"{name}-{rank}.pt")


def _reload(_rank: int, runs: dict[str, RunConfig]) -> None:
    """Load the checkpoints of bfloat16 layouts into one float32 rank, which certifies each."""
    from pretrain.checkpoint.catalog import find_newest
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    ranks = init_ranks()
    for run in runs.values():
        trainer = Trainer(run, ranks, find_newest(run.train.output))
        assert trainer.progress.step == STEPS
        trainer.engine.destroy()


def _run(corpus: SmallCorpus, folder: Path, name: str, **tables: dict[str, object]) -> RunConfig:
    values = load_run(corpus.run_file(folder / "run.toml")).model_dump()
    values["data"] |= {"num_workers": 0}
    values["train"] |= {"output": folder / name, "steps": STEPS, "micro_batch_size": 2}
    for table, changes in tables.items():
        values[table] |= changes
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def found(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("precision")

    def run(
        name: str,
        parallel: dict[str, object] | None = None,
        optim: dict[str, object] | None = None,
        **train: object,
    ) -> None:
        group = two if parallel else one
        tables = {"train": train, "parallel": parallel or {}, "optim": optim or {}}
        group[name] = _run(small_corpus, folder, name, **tables)

    one: dict[str, RunConfig] = {}
    two: dict[str, RunConfig] = {}
    run("float32", precision="float32")
    for recompute in ("none", "full", "selective"):
        run(f"bf16-{recompute}", precision="bf16", activation_checkpointing=recompute)
    run("fp16", precision="fp16", initial_loss_scale=1024.0)
    run("grows", precision="fp16", initial_loss_scale=1024.0, loss_scale_window=1)
    for name, parallel in LAYOUTS.items():
        run(name, parallel, precision="fp16", initial_loss_scale=TOO_HIGH)
    for name, parallel in BF16.items():
        run(name, parallel, precision="bf16")
    run("bf16-float32-sums", {"zero_stage": 3}, precision="bf16", gradient_reduction="float32")
    run("bf16-muon", optim=MUON, precision="bf16")
    for stage in MUON_STAGES:
        run(f"bf16-muon-zero-{stage}", {"zero_stage": stage}, MUON, precision="bf16")
    run_ranks(_train, 1, folder, one, folder)
    run_ranks(_train, 2, folder, two, folder)
    alone = {
        name: _run(small_corpus, folder, name, train={"precision": "float32"}) for name in BF16
    }
    run_ranks(_reload, 1, folder, alone)
    return {file.stem: torch.load(file, weights_only=False) for file in folder.glob("*-[01].pt")}


def _losses(result: Any) -> list[float]:
    """Of all steps and of the validation, and the norm of the first gradient.

    Adam turns small differences between small gradients into large ones: later norms drift.
    """
    records, valid, _ = result
    return [records[0]["grad_norm"], *(record["loss"] for record in records), valid]


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_in_the_same_precision(found: dict[str, Any], recompute: str) -> None:
    kept = _losses(found["bf16-none-0"])
    assert _losses(found[f"bf16-{recompute}-0"]) == pytest.approx(kept, rel=1e-6)
    assert kept == pytest.approx(_losses(found["float32-0"]), rel=1e-2)
    assert kept != pytest.approx(_losses(found["float32-0"]), rel=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_float16_trains_as_float32(found: dict[str, Any], name: str) -> None:
    for rank in range(2):
        result = found[f"{name}-{rank}"]
        # the overflows at the beginning cost attempts, not data
        assert [record["step"] for record in result[0]] == list(range(1, STEPS + 1))
        assert _losses(result) == pytest.approx(_losses(found["fp16-0"]), rel=1e-3)
        assert _losses(result) == pytest.approx(_losses(found["float32-0"]), rel=5e-3)
        assert _losses(result) != pytest.approx(_losses(found["float32-0"]), rel=1e-4)


@pytest.mark.parametrize("name", [*BF16, "bf16-float32-sums"])
def test_bfloat16_trains_as_on_one_rank(found: dict[str, Any], name: str) -> None:
    for rank in range(2):
        # sums of two ranks are rounded to eight bits of mantissa
        assert _losses(found[f"{name}-{rank}"]) == pytest.approx(
            _losses(found["bf16-none-0"]), rel=4e-3
        )


@pytest.mark.parametrize("stage", MUON_STAGES)
def test_muon_in_bfloat16_trains_as_on_one_rank(found: dict[str, Any], stage: int) -> None:
    for rank in range(2):
        assert _losses(found[f"bf16-muon-zero-{stage}-{rank}"]) == pytest.approx(
            _losses(found["bf16-muon-0"]), rel=4e-3
        )


def test_scale_follows_overflows_and_is_saved(found: dict[str, Any]) -> None:
    for name in LAYOUTS:
        (scale, resumed), (other, _) = found[f"{name}-0"][2], found[f"{name}-1"][2]
        assert 1.0 < scale < TOO_HIGH
        assert scale == resumed == other
    assert found["fp16-0"][2] == [1024.0, 1024.0]
    assert found["grows-0"][2] == [2.0 ** (10 + STEPS), 2.0 ** (10 + STEPS)]
