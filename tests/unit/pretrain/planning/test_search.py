"""Rankings of layouts: which are tried, in which order they stand, and why they lose."""

import pytest

from pretrain.config import RunConfig
from pretrain.parallel.layout_checks import check_layout
from pretrain.planning import search as search_module
from pretrain.planning.candidates import candidates
from pretrain.planning.devices import load_devices
from pretrain.planning.plan import machines_of
from pretrain.planning.search import changes, search

MACHINES = machines_of(load_devices(), "h100", "400", 0)


def _run(num_layers: int = 2, **parallel: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"vocab_size": 512, "dim": 64, "num_layers": num_layers, "num_heads": 4},
            "data": {"sequence_length": 256},
            "train": {"global_batch_size": 8, "micro_batch_size": 1},
            "parallel": parallel,
        }
    )


def test_candidates_are_possible_and_distinct() -> None:
    run = _run()
    found = candidates(run, 8, MACHINES)
    layouts = {(c.run.parallel.model_dump_json(), c.run.train.model_dump_json()) for c in found}
    assert len(layouts) == len(found) > 50
    for candidate in found:
        check_layout(candidate.run, 8)
        assert candidate.run.train.global_batch_size == 8
        # what a candidate says that it changes is all that it changes
        stated = {key.split(".")[1] for key in candidate.changes}
        for table in ("parallel", "train"):
            old, new = (getattr(r, table).model_dump() for r in (run, candidate.run))
            assert {key for key in old if old[key] != new[key]} <= stated
    sizes = {c.run.parallel.tensor for c in found}
    assert sizes == {1, 2, 4}


def test_rough_memory_falls_with_recomputation_and_sharding() -> None:
    rough = {
        (c.run.parallel.zero_stage, c.run.train.activation_checkpointing): c.bytes
        for c in candidates(_run(num_layers=12), 8, MACHINES)
        if c.run.parallel.model_ranks == 1 == c.run.train.micro_batch_size
    }
    assert rough[1, "full"] < rough[1, "selective"] < rough[1, "none"]
    assert rough[3, "none"] < rough[2, "none"] < rough[1, "none"]


def test_a_ranking_begins_with_the_fastest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "MOST", 3)
    # on a busy machine, too
    monkeypatch.setattr(search_module, "PATIENCE_S", 1e9)
    run = _run()
    ranking = search(run, 4, MACHINES)
    first, *others = ranking.places
    assert len(others) == 2
    assert (first.reason, first.figures.fits) == ("", True)
    for place in others:
        assert place.figures.step_s >= first.figures.step_s
        assert "% slower: " in place.reason
    assert ranking.possible > 3
    assert ranking.too_big == 0


def test_changes_are_written_as_in_a_run_file() -> None:
    before, after = _run(), _run(tensor=2, shard_activations=True, offload_optimizer="cpu")
    assert changes(before, after) == (
        "parallel.tensor = 2, parallel.shard_activations = true, parallel.offload_optimizer = 'cpu'"
    )
