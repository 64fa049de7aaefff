"""Deep stages are continued from shallow ones: the figures are those of the whole rehearsal."""

import itertools
from typing import Any

import pytest

from pretrain.config import RunConfig
from pretrain.planning import figures as figures_module
from pretrain.planning.depth import shallow_stages
from pretrain.planning.devices import load_devices
from pretrain.planning.figures import Figures, figures
from pretrain.planning.plan import machines_of

MACHINES = machines_of(load_devices(), "h100", "400", 0)
CASES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"parallel": {"data": 2}},
    "ZeRO 3, recomputed": {
        "parallel": {"data": 2, "zero_stage": 3},
        "train": {"activation_checkpointing": "full"},
    },
    "tensor": {
        "parallel": {"tensor": 2, "shard_activations": True, "zero_stage": 2},
        "train": {"z_loss": 1e-4},
    },
    "three stages": {"model": {"num_layers": 26}, "parallel": {"pipeline": 3}},
    "muon": {"optim": {"name": "muon", "scale": "width"}, "parallel": {"data": 2}},
}


def _run(case: dict[str, Any]) -> RunConfig:
    sizes = {"vocab_size": 512, "dim": 64, "num_layers": 11, "num_heads": 4, "ffn_dim": 96}
    return RunConfig.model_validate(
        {
            "model": sizes | case.get("model", {}),
            "data": {"sequence_length": 256},
            "optim": case.get("optim", {}),
            "train": {"global_batch_size": 12, "micro_batch_size": 1} | case.get("train", {}),
            "parallel": case["parallel"],
        }
    )


def _planned(run: RunConfig) -> Figures:
    return figures(run, run.parallel.model_ranks * max(1, run.parallel.data), MACHINES)


def _check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(CASES[name])
    continued = _planned(run)
    monkeypatch.setattr(figures_module, "shallow_stages", lambda *_: None)
    whole = _planned(run)
    assert continued.parameters == whole.parameters
    assert continued.model_flops == whole.model_flops
    # ZeRO pads what it cuts to a multiple of the ranks
    assert continued.sent == pytest.approx(whole.sent, rel=1e-3)
    assert continued.bytes == pytest.approx(whole.bytes, rel=1e-2)
    assert continued.start == pytest.approx(whole.start, rel=1e-2)
    assert continued.step_s == pytest.approx(whole.step_s, rel=1e-3)


def test_a_deep_model_is_planned_from_two_shallow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    _check("ZeRO 1", monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in CASES if name != "ZeRO 1"])
def test_every_layout_is_planned_from_shallow_stages(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check(name, monkeypatch)


def test_shallow_stages_keep_the_place_in_the_pattern() -> None:
    run = _run({"model": {"num_layers": 40}, "parallel": {"pipeline": 3}})
    bounds = [0, 13, 27, 40]
    for stage in range(3):
        shallow = shallow_stages(run, bounds, stage)
        assert shallow is not None
        depths = [places[stage + 1] - places[stage] for places in shallow.bounds]
        whole = bounds[stage + 1] - bounds[stage]
        assert depths[0] + shallow.times * (depths[1] - depths[0]) == whole
        for each, places in zip(shallow.runs, shallow.bounds, strict=True):
            assert len(places) == len(bounds)
            assert places[-1] == each.model.num_layers
            assert all(first < last for first, last in itertools.pairwise(places))
            # layers alternate between two kinds
            assert places[stage] % 2 == bounds[stage] % 2
    assert shallow_stages(run, [0, 6, 34, 40], 0) is None
