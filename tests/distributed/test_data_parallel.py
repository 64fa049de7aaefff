"""Data-parallel ranks and ZeRO stages: the same losses and gradients as one rank."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import RunConfig
from pretrain.distributed import Ranks
from pretrain.parallel.mesh import Mesh
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

LAYOUTS = {f"zero{stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)}


def _train(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    """Train every run in this process group and write down what rank 0 saw."""
    import pretrain.engine
    from pretrain.distributed import init_ranks
    from pretrain.trainer import Trainer

    configure = pretrain.engine.deepspeed_config

    def partition_everything(run: RunConfig, ranks: Ranks, mesh: Mesh) -> dict[str, Any]:
        """By default, ZeRO-3 leaves parameters as small as these whole on every rank."""
        config = configure(run, ranks, mesh)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    pretrain.engine.deepspeed_config = partition_everything

    for name, run in runs.items():
        trainer = Trainer(run, init_ranks())
        records = []
        for batches in trainer.loader:
            records.append(trainer.train_step(batches))
            if trainer.step == run.train.steps:
                break
        valid = trainer.validate()["valid_loss"]
        trainer.engine.destroy()
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps([records, valid]))


@pytest.fixture(scope="module")
def results(
    small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[dict[str, float]], float]]:
    """Records of every layout on two ranks, and of one rank with and without accumulation."""
    folder = tmp_path_factory.mktemp("layouts")
    base = load_run(small_corpus.run_file(folder / "run.toml"))

    def run(name: str, micro: int = 1, **parallel: object) -> RunConfig:
        values = base.model_dump()
        values["train"] |= {"output": folder / name, "micro_batch_size": micro}
        values["data"]["num_workers"] = 0
        values["parallel"] |= parallel
        return RunConfig.model_validate(values)

    alone = {"one_rank": run("one_rank", 4), "accumulated": run("accumulated", 1)}
    together = {name: run(name, **parallel) for name, parallel in LAYOUTS.items()}
    run_ranks(_train, 1, folder, alone, folder)
    run_ranks(_train, 2, folder, together, folder)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in alone | together}


@pytest.mark.parametrize("layout", ["accumulated", *LAYOUTS])
def test_layout_equals_one_rank(
    layout: str, results: dict[str, tuple[list[dict[str, float]], float]]
) -> None:
    expected, expected_valid = results["one_rank"]
    found, found_valid = results[layout]
    assert [record["loss"] for record in found] == pytest.approx(
        [record["loss"] for record in expected], rel=1e-5
    )
    # Adam hides a wrong scale of the gradient; its norm does not. Only the first step's gradient
    # is taken at equal parameters: Adam divides rounding errors by tiny second moments.
    assert found[0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-5)
    assert [record["grad_norm"] for record in found] == pytest.approx(
        [record["grad_norm"] for record in expected], rel=1e-3
    )
    assert found_valid == pytest.approx(expected_valid, rel=1e-5)


def test_the_loss_falls(results: dict[str, tuple[list[dict[str, float]], float]]) -> None:
    losses = [record["loss"] for record in results["one_rank"][0]]
    assert losses[-1] < losses[0]
