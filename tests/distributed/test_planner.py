"""What a plan says of a layout is what real ranks do: bytes of each collective, peak memory."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config import RunConfig
from tests.distributed import planned
from tests.distributed.features import EVERYTHING, GATES
from tests.distributed.ranks import run_ranks
from tests.processes import CONTEXT

# by name: tables of the run file
CASES: dict[str, dict[str, Any]] = {
    "one rank": {"parallel": {"zero_stage": 0}},
    "one rank, ZeRO 3": {"parallel": {"zero_stage": 3}},
    "ZeRO 0": {"parallel": {"zero_stage": 0, "data": 2}},
    "ZeRO 1": {"parallel": {"zero_stage": 1, "data": 2}},
    "ZeRO 2": {"parallel": {"zero_stage": 2, "data": 2}},
    "ZeRO 3": {"parallel": {"zero_stage": 3, "data": 2}},
    "accumulation": {"parallel": {"zero_stage": 2, "data": 2}, "train": {"global_batch_size": 6}},
    "rows": {"parallel": {"data": 2}, "train": {"micro_batch_size": 2, "global_batch_size": 8}},
    "selective": {
        "parallel": {"data": 2},
        "train": {"activation_checkpointing": "selective"},
    },
    "full": {"parallel": {"data": 2}, "train": {"activation_checkpointing": "full"}},
    "bf16": {"parallel": {"data": 2}, "train": {"precision": "bf16"}},
    "bf16, full, ZeRO 3": {
        "parallel": {"data": 2, "zero_stage": 3},
        "train": {"precision": "bf16", "activation_checkpointing": "full"},
    },
    "offloaded optimizer": {"parallel": {"data": 2, "zero_stage": 2, "offload_optimizer": "cpu"}},
    "gates": {"model": GATES, "parallel": {"data": 2}},
    "everything": {"model": EVERYTHING, "parallel": {"sequence": 2}},
    "fft and wavelets": {
        "model": {"mixers": ("fft", "wavelet")},
        "parallel": {"sequence": 2},
    },
    "delta": {
        "model": {"recall_rule": "delta", "recall_phase": "data"},
        "parallel": {"sequence": 2, "zero_stage": 2},
    },
    "sequence": {"parallel": {"sequence": 2, "zero_stage": 3}},
    "tensor": {"parallel": {"tensor": 2, "zero_stage": 0}},
    "tensor, sharded activations": {"parallel": {"tensor": 2, "shard_activations": True}},
    "tensor, everything": {"model": EVERYTHING, "parallel": {"tensor": 2}},
    "stages": {"parallel": {"pipeline": 2}, "train": {"global_batch_size": 3}},
    "stages, full": {
        "parallel": {"pipeline": 2},
        "train": {"global_batch_size": 4, "activation_checkpointing": "full"},
    },
    "experts of tensor ranks": {
        "model": {"feed_forward": "experts", "experts": {"count": 4, "per_token": 1}},
        "parallel": {"tensor": 2},
    },
    "experts": {
        "model": {"feed_forward": "experts", "experts": {"count": 2, "per_token": 2}},
        "parallel": {"expert": 2, "data": 2},
    },
    "tensor, sequence": {"parallel": {"tensor": 2, "sequence": 2, "zero_stage": 2}},
    "tensor, data, ZeRO 3": {"parallel": {"tensor": 2, "data": 2, "zero_stage": 3}},
    "stages, tensor": {"parallel": {"pipeline": 2, "tensor": 2}},
    "stages, data": {"parallel": {"pipeline": 2, "data": 2}},
    "four data ranks": {"parallel": {"data": 4, "zero_stage": 2}},
}


def run_of(case: dict[str, Any]) -> RunConfig:
    """The run of a case: a small model of four layers, heads by turns, two passes a step."""
    model = {
        "vocab_size": 512,
        "dim": 64,
        "num_layers": 4,
        "num_heads": 4,
        "num_modes": 8,
        "conv_chunk": 32,
        "recall_chunk": 32,
        "ffn_dim": 160,
        "fft": {"chunk": 64},
        "wavelet": {"levels": 2},
    }
    parallel = case.get("parallel", {})
    train = {"micro_batch_size": 1, "global_batch_size": 2 * parallel.get("data", 1)}
    return RunConfig.model_validate(
        {
            "model": model | case.get("model", {}),
            "data": {"sequence_length": 512},
            "train": train | case.get("train", {}),
            "parallel": parallel,
        }
    )


def ranks_of(case: dict[str, Any]) -> int:
    """Number of ranks of a case."""
    parallel = run_of(case).parallel
    return parallel.model_ranks * max(parallel.data, 1)


# measured for every `make test`; the others by `make test-all`
FEW = ("ZeRO 2", "full", "stages", "tensor, sharded activations")


def _check(names: list[str], folder: Path) -> None:
    runs = {name: run_of(CASES[name]) for name in names}
    (ranks,) = {ranks_of(CASES[name]) for name in names}
    run_ranks(planned.measure, ranks, folder, runs, folder)
    for name, run in runs.items():
        stages = run.parallel.pipeline
        message = None
        for stage in sorted({0, stages - 1}):
            rank = stage * (ranks // stages)
            with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
                plan = pool.submit(planned.rehearsed, run, ranks, rank, message).result()
            message = plan.message
            sent, peak = torch.load(folder / f"measured-{rank}.pt")[name]
            assert plan.sent() == sent, name
            predicted = max(plan.peak.device_bytes, plan.start.device_bytes)
            assert predicted == pytest.approx(peak, rel=0.1), name


def test_a_few_layouts_send_and_hold_what_is_planned(tmp_path: Path) -> None:
    _check(list(FEW), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_layout_sends_and_holds_what_is_planned(ranks: int, tmp_path: Path) -> None:
    _check([name for name, case in CASES.items() if ranks_of(case) == ranks], tmp_path)
