"""Impossible layouts are refused from the run alone, with what would work."""

import pytest

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout
from pretrain.submit.node_counts import check_fewer_nodes

BASE: dict[str, dict[str, object]] = {
    "model": {"num_heads": 4, "conv_heads": (2,), "ffn_dim": 96, "num_layers": 4},
    "data": {"sequence_length": 256},
    "train": {"global_batch_size": 4, "micro_batch_size": 1},
}


def _run(**changes: dict[str, object]) -> RunConfig:
    tables = {name: BASE.get(name, {}) | changes.get(name, {}) for name in BASE | changes}
    return RunConfig.model_validate(tables)


@pytest.mark.parametrize(
    "parallel",
    [
        {},
        {"tensor": 2, "sequence": 2},
        {"pipeline": 4},
        {"sequence": 4, "zero_stage": 3, "offload_parameters": "cpu"},
        {"data": 2, "pipeline": 2},
    ],
)
def test_possible_layouts(parallel: dict[str, object]) -> None:
    check_layout(_run(parallel=parallel), 4)


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        (
            {"parallel": {"tensor": 2, "sequence": 2}},
            6,
            r"= 4 does not divide .* 6 ranks; .* 4 or 8",
        ),
        ({"parallel": {"data": 2, "tensor": 2}}, 8, r"needs 4 ranks, found 8; .*data = 4, or 0"),
        ({"parallel": {"tensor": 4}}, 4, r"tensor is 4.*2 convolution heads.*one of \[1, 2\]"),
        ({"parallel": {"tensor": 3}}, 3, r"does not divide model\.num_heads 4; .*\[1, 2\]"),
        (
            {"parallel": {"tensor": 2}, "model": {"ffn_dim": 97}},
            2,
            r"does not divide model\.ffn_dim 97; expected model\.ffn_dim 96 or 98",
        ),
        (
            {"parallel": {"sequence": 3}},
            3,
            r"sequence is 3.*sequence_length 256; expected .* 255 or 258",
        ),
        (
            {"parallel": {"sequence": 8}, "data": {"sequence_length": 16}},
            8,
            r"span has 2 tokens, fewer than the 3.*at most 5 sequence ranks",
        ),
        (
            {
                "parallel": {"sequence": 4},
                "model": {"mixers": ("wavelet",)},
                "data": {"sequence_length": 64},
            },
            4,
            r"span has 16 tokens, fewer than the 49.*at most 1 sequence ranks",
        ),
        (
            {"parallel": {"sequence": 8}, "model": {"gates": {"residual": True}}},
            8,
            r"span has 32 tokens, and must hold whole chunks of model\.conv_chunk 64; .* 512",
        ),
        (
            {"parallel": {"sequence": 4}, "model": {"mixers": ("fft",), "fft": {"chunk": 128}}},
            4,
            r"span has 64 tokens, and must hold whole chunks of model\.fft\.chunk 128; .* 512",
        ),
        (
            {"train": {"global_batch_size": 4, "micro_batch_size": 1, "batch_warmup": ((9, 2),)}},
            4,
            r"batch_warmup, before step 9: the number of windows is 2; expected .* 1 x 4, .* 4",
        ),
        (
            {"parallel": {"sequence": 4}, "train": {"length_warmup": ((9, 66),)}},
            4,
            r"length_warmup, before step 9: parallel\.sequence is 4, .* 66; expected .* 64 or 68",
        ),
        (
            {"parallel": {"tensor": 2}, "monitor": {"noise_every": 5}},
            2,
            r"noise_every is 5 with parallel\.tensor 2; expected parallel\.tensor 1, or",
        ),
        (
            {"train": {"micro_batch_size": 4}, "monitor": {"noise_every": 5}},
            1,
            r"noise_every is 5 with .* micro_batch_size 4; expected at least two micro-batches",
        ),
        (
            {
                "parallel": {"expert": 2},
                "model": {"feed_forward": "experts"},
                "optim": {"clip": "groups"},
            },
            2,
            r"clip is 'groups' with parallel\.expert 2; expected 'whole'",
        ),
        (
            {"parallel": {"pipeline": 4}, "optim": {"clip": "groups"}},
            4,
            r"clip is 'groups' with parallel\.pipeline 4; expected 'whole', or at most 2 stages",
        ),
        ({"parallel": {"pipeline": 8}}, 8, r"pipeline is 8.*num_layers 4; expected at most 4"),
        (
            {"parallel": {"pipeline": 2, "zero_stage": 3}},
            2,
            r"zero_stage is 3 with parallel\.pipeline 2; expected zero_stage 1",
        ),
        (
            {"parallel": {"offload_parameters": "cpu"}},
            1,
            r"offload_parameters is 'cpu' with zero_stage 1; expected zero_stage 3",
        ),
        (
            {"parallel": {"offload_optimizer": "nvme", "zero_stage": 2}},
            1,
            r"offload_optimizer is 'nvme' with zero_stage 2; expected zero_stage 3",
        ),
        ({"train": {"global_batch_size": 5}}, 2, r"size is 5; .*= 1 x 2, for example 4 or 6"),
    ],
)
def test_impossible_layouts_name_what_works(
    changes: dict[str, dict[str, object]], ranks: int, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        check_layout(_run(**changes), ranks)


def test_the_data_axis_alone_shrinks_with_the_machines() -> None:
    launch = {"nodes": 4, "min_nodes": 2}
    run = _run(parallel={"data": 4, "tensor": 2}, train={"global_batch_size": 12}, launch=launch)
    assert check_fewer_nodes(run, 2) == [8, 6, 4]
    with pytest.raises(RunError, match=r"needs 8 ranks, found 10"):
        check_layout(run, 10)
    fixed = _run(parallel={"data": 4, "tensor": 2}, train={"global_batch_size": 12})
    with pytest.raises(
        RunError, match=r"needs 8 ranks, found 6; expected parallel\.data = 3, or 0"
    ):
        check_layout(fixed, 6)


@pytest.mark.parametrize(
    ("parallel", "train", "message"),
    [
        (
            {},
            {"global_batch_size": 16},
            r"min_nodes is 2 of 4, but with 3 machines train\.global_batch_size is 16; "
            r".*= 1 x 3, for example 15 or 18; or launch\.min_nodes 4, or for all of them "
            r"train\.global_batch_size 12 or 24$",
        ),
        (
            {"tensor": 2},
            {"global_batch_size": 12},
            r"but with 3 machines .* = 2 does not divide the run's 3 ranks; .* or "
            r"launch\.min_nodes 4$",
        ),
    ],
)
def test_fewer_machines_that_do_not_fit_name_what_works(
    parallel: dict[str, object], train: dict[str, object], message: str
) -> None:
    run = _run(parallel=parallel, train=train, launch={"nodes": 4, "min_nodes": 2})
    with pytest.raises(RunError, match=message):
        check_fewer_nodes(run, 1)
