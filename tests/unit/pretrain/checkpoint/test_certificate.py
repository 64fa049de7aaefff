"""A certificate notices a model that computes something else, and says in which layer it begins."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from pretrain.checkpoint.certificate import certify, difference, measure
from pretrain.checkpoint.fingerprint import ProbeReading, merge_readings, probe_length, sums
from pretrain.config import RunConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

RUN = RunConfig.model_validate(
    {
        "model": ModelConfig(
            vocab_size=64,
            dim=32,
            num_layers=3,
            num_heads=4,
            num_modes=4,
            conv_chunk=16,
            recall_chunk=16,
            ffn_dim=48,
        ),
        "data": {"sequence_length": 48},
    }
)


@pytest.fixture
def model() -> SpectralLM:
    torch.manual_seed(0)
    return SpectralLM(RUN.model)


def _swap_channels(model: SpectralLM) -> None:
    """What a tensor-parallel split with its ranges in the wrong order does."""
    weight = model.blocks[1].mixer.out_proj.weight
    weight.copy_(torch.cat([weight[:, 16:], weight[:, :16]], dim=1))


def _swap_rows(model: SpectralLM) -> None:
    model.embedding.weight[:2] = model.embedding.weight[[1, 0]]


def _lose_a_parameter(model: SpectralLM) -> None:
    model.blocks[2].feed_forward.down_proj.weight[3, 5] = 0.0


def _break(model: SpectralLM) -> None:
    model.final_norm.weight[0] = torch.nan


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (_swap_channels, "blocks.1"),
        (_swap_rows, "embedding"),
        (_lose_a_parameter, "blocks.2"),
        (_break, "final_norm"),
    ],
)
def test_the_first_layer_that_differs_is_named(
    change: Callable[[SpectralLM], None], layer: str, model: SpectralLM
) -> None:
    expected = certify(model, RUN)["measured"]
    assert list(expected) == [
        "embedding",
        *(f"blocks.{i}" for i in range(3)),
        "final_norm",
        "logits",
        "loss",
    ]
    assert difference(measure(model, 64, 48), expected) == ""
    with torch.no_grad():
        change(model)
    assert difference(measure(model, 64, 48), expected).startswith(f"{layer} differs first: by ")


def test_rounding_is_no_difference(model: SpectralLM) -> None:
    expected = measure(model, 64, 48)
    assert difference(measure(model.double(), 64, 48), expected) == ""


def test_the_mode_and_the_dropout_do_not_matter(model: SpectralLM) -> None:
    expected = measure(model.train(), 64, 48)
    assert model.training
    assert measure(model.eval(), 64, 48) == expected
    assert not model.training


def test_spans_add_up_to_the_whole() -> None:
    x_TD = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    whole = merge_readings([ProbeReading(0, {"blocks.0": sums(x_TD, 0)}, {3: 0.5}, 7.0)], 12)
    parts = [
        ProbeReading(start, {"blocks.0": sums(x_TD[start:stop], start)}, {3: float(start)}, nll)
        for (start, stop), nll in zip(pairwise((0, 4, 8, 12)), (1.0, 2.0, 4.0), strict=True)
    ]
    # tensor ranks see the same
    found = merge_readings([parts[1], *parts, parts[2]], 12)
    assert found["blocks.0"] == pytest.approx(whole["blocks.0"], rel=1e-12)
    assert found["logits"] == [8.0]
    assert found["loss"] == whole["loss"]


@pytest.mark.parametrize(("length", "expected"), [(48, 48), (16_384, 16_384), (204_800, 19_200)])
def test_long_sequences_are_probed_in_part(length: int, expected: int) -> None:
    run = RUN.model_copy(update={"data": RUN.data.model_copy(update={"sequence_length": length})})
    assert probe_length(run) == expected
