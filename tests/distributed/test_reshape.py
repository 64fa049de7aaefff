"""Train under one layout, go on under another: the losses of the run that was never interrupted."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.config import RunConfig
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

STEPS, SAVED_AT = 6, 3
# layout and ZeRO stage before, and after
Case = tuple[str, int, str, int]
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
TABLE: list[Case] = [(*before, *after) for before, after in itertools.product(KINDS, repeat=2)]
# every layout and stage is left once and entered once, and every kind of change is seen
QUICK: list[Case] = [
    ("dp2", 1, "one", 3),
    ("one", 3, "dp2", 2),
    ("dp2", 2, "tp2", 1),
    ("tp2", 1, "sp2", 3),
    ("sp2", 3, "pp2", 1),
    ("pp2", 1, "dp2", 2),
    ("one", 3, "dp2tp2", 3),
    ("dp2tp2", 3, "sp2tp2", 2),
    ("sp2tp2", 2, "pp2dp2", 1),
    ("pp2dp2", 1, "tp2", 1),
]


class Job(NamedTuple):
    """One half of a run.

    Attributes:
        run: Under its layout.
        start: The run's directory whose newest checkpoint it goes on from; None: it begins.
        stop: The step that it ends at, with a checkpoint.
    """

    run: RunConfig
    start: Path | None
    stop: int


def _train_all(rank: int, jobs: list[Job]) -> None:
    """Do one job after the other; rank 0 writes down the losses."""
    import pretrain.training.engine
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    configure = pretrain.training.engine.deepspeed_config

    def configured(*arguments: Any) -> dict[str, Any]:
        """Several ranks partition everything; by default ZeRO-3 leaves parameters this small whole.

        One rank keeps the default, so that both kinds are loaded.
        """
        config = configure(*arguments)
        if dist.get_world_size() > 1:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    pretrain.training.engine.deepspeed_config = configured
    for run, start, stop in jobs:
        trainer = Trainer(run, init_ranks(), start and list_checkpoints(start)[-1])
        losses = []
        for batches in trainer.loader:
            record = trainer.train_step(batches)
            assert record is not None
            losses.append(record["loss"])
            if trainer.progress.step == stop:
                break
        trainer.save(needed=True)
        trainer.journal.close()
        trainer.engine.destroy()
        if rank == 0:
            (run.train.output / "losses.json").write_text(json.dumps(losses))


def _do(jobs: dict[str, tuple[str, Job]], folder: Path, fresh: bool) -> dict[str, list[float]]:
    """Do named jobs, each with its layout's number of ranks; returns their losses."""
    for ranks in sorted({LAYOUTS[layout][0] for layout, _ in jobs.values()}):
        own = [job for layout, job in jobs.values() if LAYOUTS[layout][0] == ranks]
        run_ranks(_train_all, ranks, folder, own, fresh=fresh)
    return {
        name: json.loads((job.run.train.output / "losses.json").read_text())
        for name, (_, job) in jobs.items()
    }


# matrices cut anywhere, cut in equal stretches, split over tensor ranks, on stages
MUON: list[Case] = [
    ("dp2", 2, "tp2", 1),
    ("tp2", 3, "pp2", 1),
    ("pp2", 1, "dp2", 3),
    ("dp2", 3, "one", 1),
]


def _worst(
    cases: list[Case],
    corpus: SmallCorpus,
    folder: Path,
    fresh: bool = False,
    optimizer: str = "adamw",
) -> dict[Case, float]:
    """Largest relative difference of any loss from the run that was never interrupted."""
    base = load_run(corpus.run_file(folder / "run.toml", steps=STEPS))

    def job(name: str, layout: str, stage: int, start: str, stop: int) -> tuple[str, Job]:
        values: dict[str, Any] = base.model_dump()
        values["train"] |= {"output": folder / name}
        values["data"] |= {"num_workers": 0, "valid": ""}
        values["optim"] |= {"name": optimizer}
        values["parallel"] |= {"zero_stage": stage, **LAYOUTS[layout][1]}
        run = RunConfig.model_validate(values)
        return layout, Job(run, folder / start if start else None, stop)

    kinds = sorted({(before, stage) for before, stage, _, _ in cases})
    first = _do(
        {"whole": job("whole", "one", 1, "", STEPS)}
        | {f"{a}-{s}": job(f"{a}-{s}", a, s, "", SAVED_AT) for a, s in kinds},
        folder,
        fresh,
    )
    names = {case: "-".join(map(str, case)) for case in cases}
    second = _do(
        {
            name: job(name, after, other, f"{before}-{stage}", STEPS)
            for (before, stage, after, other), name in names.items()
        },
        folder,
        fresh,
    )
    whole = torch.tensor(first["whole"], dtype=torch.float64)
    found = {
        case: torch.tensor(first[f"{case[0]}-{case[1]}"] + second[name], dtype=torch.float64)
        for case, name in names.items()
    }
    return {case: float(((losses - whole) / whole).abs().max()) for case, losses in found.items()}


@pytest.mark.timeout(900)
def test_runs_go_on_under_another_layout(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    worst = _worst(QUICK, small_corpus, tmp_path)
    assert {case: error for case, error in worst.items() if not error <= 1e-5} == {}


@pytest.mark.timeout(900)
def test_muon_goes_on_under_another_layout(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    worst = _worst(MUON, small_corpus, tmp_path, optimizer="muon")
    assert {case: error for case, error in worst.items() if not error <= 1e-5} == {}


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_runs_go_on_under_every_other_layout(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    worst = _worst(TABLE, small_corpus, tmp_path, fresh=True)
    assert len(worst) == len(TABLE)
    assert {case: error for case, error in worst.items() if not error <= 1e-5} == {}
