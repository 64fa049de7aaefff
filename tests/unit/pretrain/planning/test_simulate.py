"""Simulated layouts: what they count is what real ranks do."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.fft_conv.op import fft_conv
from kernels.recall.op import recall_local
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.planning import simulate as simulate_module
from pretrain.planning.flops import op_formulas
from pretrain.planning.simulate import Simulation, simulate
from spectral.presets import PRESETS
from tests.distributed.features import config


def _simulated(
    run: RunConfig, ranks: int, how: Callable[[RunConfig, int], Simulation] = simulate
) -> Simulation:
    """In a process of its own: a fake process group is the process's only one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(how, (run, ranks))


def _all_blocks_run(run: RunConfig, ranks: int) -> Simulation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate_module, "layer_period", lambda model: model.num_layers)
        return simulate(run, ranks)


def _run(model: Any, batch: int = 1, length: int = 8_192, **parallel: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": model.model_dump(),
            "data": {"sequence_length": length},
            "train": {"global_batch_size": batch, "micro_batch_size": 1},
            "parallel": parallel,
        }
    )


def test_4096_ranks_of_the_largest_preset() -> None:
    model = PRESETS["xlarge"].model
    layout = {"tensor": 8, "sequence": 8, "zero_stage": 3}
    found = _simulated(_run(model, batch=64, length=204_800, **layout), 4_096)
    whole = PRESETS["xlarge"].num_parameters
    # norms and gates are on every tensor rank
    assert whole / 8 < found.parameters < 1.1 * whole / 8
    # ZeRO-3 over 512 ranks: parameters, gradients, float32 copy and two moments
    assert found.state_bytes == pytest.approx(5 * 4 * found.parameters / 512, rel=1e-3)
    tokens = 204_800 * 64 // 4_096
    # six operations per parameter and token, of which the embedding has only the output's
    assert 5.5 * whole * tokens < found.flops < 9 * whole * tokens
    assert found.sent["allreduce"] > 0 < found.sent["allgather_base"]


def test_blocks_of_a_kind_are_counted_by_two_rounds() -> None:
    run = _run(config(conv_heads=(4, 0), num_layers=7), length=256, tensor=2, sequence=2)
    assert _simulated(run, 4) == _simulated(run, 4, _all_blocks_run)


def test_sequence_ranks_send_the_same_at_every_length() -> None:
    short, long = (
        _simulated(_run(config(conv_chunk=64), length=length, sequence=4), 4)
        for length in (8_192, 204_800)
    )
    assert short.sent == long.sent
    assert 20 < long.flops / short.flops < 30


def test_experts_that_ranks_share_are_counted_once_and_rows_travel_four_times() -> None:
    model = config(feed_forward="experts", experts={"count": 8, "per_token": 2})
    alone = _simulated(_run(model, length=256), 1)
    found = _simulated(_run(model, batch=4, length=256, expert=4), 4)
    experts = model.num_layers * 8 * 3 * model.dim * model.ffn_dim
    assert found.parameters == alone.parameters - experts * 3 // 4
    # ZeRO-1: parameters and gradients whole; three numbers more, for the rest over 4 ranks
    rest = alone.parameters - experts
    assert found.state_bytes == 4 * (2 * found.parameters + 3 * (experts // 4 + rest // 4))
    # there and back, forward and backward, and how many go where
    rows = 4 * 2 * 256 * model.dim * 4 + 8 * 8
    assert found.sent["alltoall_base"] == model.num_layers * rows
    assert found.flops == alone.flops


@pytest.mark.parametrize(
    ("layout", "activations", "segment_ids", "rows"),
    [
        # micro-batches of 1 x 256 tokens and 32 channels, float32
        ({}, 256 * 32, 256, 51),
        ({"sequence": 2}, 128 * 32, 128, 51),
        # 51 rows are padded to 52
        ({"tensor": 2}, 256 * 32, 256, 26),
        ({"tensor": 2, "shard_activations": True}, 128 * 32, 256, 26),
    ],
)
def test_stages_send_activations_segment_ids_and_the_tied_embeddings_gradient(
    layout: dict[str, int], activations: int, segment_ids: int, rows: int
) -> None:
    ranks = 2 * layout.get("tensor", 1) * layout.get("sequence", 1)
    found = _simulated(_run(config(), batch=3, length=256, pipeline=2, **layout), ranks)
    # there and back with one more number, and a message of 256 int32 that says what comes
    once = 2 * 4 * (activations + 1) + 8 * segment_ids + 1_024
    assert found.sent["between stages"] == 3 * once
    # once per step, whatever the number of micro-batches
    assert found.sent["tied embedding"] == 4 * rows * 32


def test_an_impossible_layout_is_refused() -> None:
    with pytest.raises(
        RunError, match=r"parallel\.tensor is 3, which does not divide model\.num_heads 4"
    ):
        simulate(_run(config(), tensor=3), 3)


def test_operations_of_our_ops_are_counted() -> None:
    counter = FlopCounterMode(display=False, custom_mapping=op_formulas())
    with counter:
        fft_conv(torch.randn(2, 3, 64), torch.randn(2, 64))
    # two real transforms of 128 points for each of 6 rows
    assert counter.get_total_flops() == 6 * 2 * round(2.5 * 128 * 7)
    q = torch.randn(2, 4, 16, 8)
    with counter:
        recall_local(q, q, q, torch.zeros(2, 4, 16), None)
    assert counter.get_total_flops() == 2 * 4 * (2 * 16 * 16 * 8 + 2 * 16 * 16 * 8)
