"""Train under one layout, go on under another: the losses of the run that was never interrupted."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from pretrain.config import RunConfig
from pretrain.run_directory import list_checkpoints
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

STEPS, SAVED_AT = 6, 3
# name -> (ranks, [parallel] keys)
LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "one": (1, {}),
    "dp2": (2, {}),
    "tp2": (2, {"tensor": 2}),
    "sp2": (2, {"sequence": 2}),
    "pp2": (2, {"pipeline": 2}),
    "dp2tp2": (4, {"tensor": 2}),
    "sp2tp2": (4, {"tensor": 2, "sequence": 2}),
    "pp2dp2": (4, {"pipeline": 2}),
}
# DeepSpeed's pipelines go with ZeRO 1 alone
KINDS = [
    (name, stage)
    for name, stage in itertools.product(LAYOUTS, (1, 2, 3))
    if stage == 1 or "pipeline" not in LAYOUTS[name][1]
]
TABLE = [(*before, *after) for before, after in itertools.product(KINDS, repeat=2)]
# every layout and stage is left once and entered once, and every kind of change is seen
QUICK = [
    ("dp2", 1, "one", 3),
    ("one", 3, "dp2", 2),
    ("dp2", 2, "tp2", 1),
    ("tp2", 1, "sp2", 3),
    ("sp2", 3, "pp2", 1),
    ("pp2", 1, "dp2", 2),
]


def _train(rank: int, run: RunConfig, checkpoint: Path | None, stop: int, results: Path) -> None:
    """Train up to a step and save; rank 0 writes down the losses."""
    import pretrain.engine
    from pretrain.distributed import init_ranks
    from pretrain.trainer import Trainer

    configure = pretrain.engine.deepspeed_config

    def configured(*arguments: Any) -> dict[str, Any]:
        """Several ranks partition everything; by default ZeRO-3 leaves parameters this small whole.

        One rank keeps the default, so that both kinds are loaded.
        """
        config = configure(*arguments)
        if dist.get_world_size() > 1:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    pretrain.engine.deepspeed_config = configured
    trainer = Trainer(run, init_ranks(), checkpoint)
    losses = []
    for batches in trainer.loader:
        record = trainer.train_step(batches)
        assert record is not None
        losses.append(record["loss"])
        if trainer.step == stop:
            break
    trainer.save(needed=True)
    trainer.journal.close()
    trainer.engine.destroy()
    if rank == 0:
        results.write_text(json.dumps(losses))


class Runs:
    """Runs of one model under any layout, each half once."""

    def __init__(self, corpus: SmallCorpus, folder: Path):
        self.base, self.folder = load_run(corpus.run_file(folder / "run.toml", steps=STEPS)), folder

    def run(self, name: str, stage: int, output: Path) -> tuple[int, RunConfig]:
        ranks, keys = LAYOUTS[name]
        values: dict[str, Any] = self.base.model_dump()
        values["train"] |= {"output": output}
        values["data"] |= {"num_workers": 0, "valid": ""}
        values["parallel"] |= {"zero_stage": stage, **keys}
        return ranks, RunConfig.model_validate(values)

    def losses(
        self, name: str, stage: int, checkpoint: Path | None, stop: int, label: str
    ) -> tuple[list[float], Path]:
        """Losses and the checkpoint after them."""
        output = self.folder / label
        results = self.folder / f"{label}.json"
        if not results.exists():
            output.mkdir()
            ranks, run = self.run(name, stage, output)
            run_ranks(_train, ranks, output, run, checkpoint, stop, results)
        return json.loads(results.read_text()), list_checkpoints(output)[-1]


@pytest.fixture(scope="module")
def runs(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(small_corpus, tmp_path_factory.mktemp("reshape"))


def _parametrised() -> list[Any]:
    quick = [pytest.param(*case, id="-".join(map(str, case))) for case in QUICK]
    rest = [case for case in TABLE if case not in QUICK]
    return quick + [
        pytest.param(*case, id="-".join(map(str, case)), marks=pytest.mark.slow) for case in rest
    ]


@pytest.mark.parametrize(("before", "stage", "after", "other"), _parametrised())
def test_a_run_goes_on_under_another_layout(
    before: str, stage: int, after: str, other: int, runs: Runs
) -> None:
    whole, _ = runs.losses("one", 1, None, STEPS, "whole")
    first, checkpoint = runs.losses(before, stage, None, SAVED_AT, f"{before}-{stage}")
    label = f"{before}-{stage}-{after}-{other}"
    second, _ = runs.losses(after, other, checkpoint, STEPS, label)
    assert first + second == pytest.approx(whole, rel=1e-5)
