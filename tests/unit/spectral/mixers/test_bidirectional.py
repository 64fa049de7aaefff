"""Encoders: every token sees its whole document and nothing else, in every mixer."""

import pytest
import torch
from pydantic import ValidationError

from pretrain.config import RunConfig
from spectral.mixers.build import MIXERS
from spectral.mixers.per_document import per_document
from tests.unit.spectral.causality.checks import (
    SEGMENTS,
    T,
    check_bidirectional,
    check_gradients,
    small_config,
    small_model,
    some_tokens,
)
from tests.unit.spectral.gates.test_spectral_gate import SETTINGS

FFT = {"fft": {"chunk": 4, "direct": 6}, "causal": False}


# every gate on the real spectrum of the FFT; the other mixers' gates are those of causal models
CASES = [(mixer, name) for mixer in MIXERS for name in ("no_gate", "everything")]
LONG_CASES = {("fft", name) for name in SETTINGS} | {(mixer, "selection") for mixer in MIXERS}


@pytest.mark.parametrize(
    ("mixer", "name"),
    [
        *CASES,
        *(pytest.param(*case, marks=pytest.mark.slow) for case in sorted(LONG_CASES - set(CASES))),
    ],
)
def test_every_token_sees_its_document_only(mixer: str, name: str) -> None:
    gates = SETTINGS.get(name, {})
    model = small_model(small_config(mixers=(mixer,), num_modes=8, **FFT, **gates))
    check_bidirectional(model, None)
    check_bidirectional(model, SEGMENTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_heads": (4,)},
        {"conv_heads": (0,)},
        {"conv_heads": (4, 0)},
        {"conv_heads": (0,), "recall_rule": "delta", "recall_phase": "data", "recall_bias": True},
    ],
    ids=["convolution", "recall", "by turns", "delta"],
)
def test_each_kind_of_head_sees_both_sides(changes: dict[str, object]) -> None:
    model = small_model(small_config(**changes, causal=False))
    check_bidirectional(model, None)
    check_bidirectional(model, SEGMENTS)


@pytest.mark.parametrize("mixers", [(name,) for name in MIXERS if name != "heads"])
def test_a_packed_document_computes_as_if_alone(mixers: tuple[str, ...]) -> None:
    config = small_config(mixers=mixers, num_modes=8, **FFT, **SETTINGS["everything"])
    model, tokens = small_model(config), some_tokens(2, T)
    packed = model(tokens, SEGMENTS.expand(2, -1))
    for document in SEGMENTS.unique():
        inside = SEGMENTS[0] == document
        torch.testing.assert_close(packed[:, inside], model(tokens[:, inside]))


def test_order_is_not_lost() -> None:
    """Reading backwards is not reading forwards backwards: the two directions differ."""
    for mixer in MIXERS:
        model, tokens = small_model(small_config(mixers=(mixer,), **FFT)), some_tokens(1, 12)
        assert (model(tokens) - model(tokens.flip(1)).flip(1)).abs().max() > 1e-3


def test_an_encoder_cannot_decode() -> None:
    model, tokens = small_model(small_config(causal=False)), some_tokens(1, 5)
    with pytest.raises(ValueError, match=r"causal: expected true .* got false"):
        model.prefill(tokens)
    causal = small_model(small_config())
    _, state = causal.prefill(tokens)
    with pytest.raises(ValueError, match=r"causal: expected true .* got false"):
        model.step(tokens[:, 0], state)


@pytest.mark.parametrize("mixer", MIXERS)
def test_gradients_reach_every_parameter(mixer: str) -> None:
    config = small_config(mixers=(mixer,), num_modes=8, **FFT, **SETTINGS["everything"])
    check_gradients(config)


def test_documents_of_one_length_go_together() -> None:
    calls = []

    def reverse(u: torch.Tensor) -> tuple[torch.Tensor, None]:
        calls.append(u.shape)
        return u.flip(-1), None

    u = torch.arange(14.0).view(2, 1, 7)
    segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [3, 3, 3, 4, 4, 5, 5]])
    y, losses = per_document(reverse, u, segments)
    assert losses is None
    assert y[0, 0].tolist() == [1.0, 0.0, 4.0, 3.0, 2.0, 6.0, 5.0]
    assert y[1, 0].tolist() == [9.0, 8.0, 7.0, 11.0, 10.0, 13.0, 12.0]
    assert calls == [(4, 1, 2), (2, 1, 3)]


def test_next_tokens_are_not_learned_by_a_model_that_sees_them() -> None:
    data = {"datasets": [{"path": "data/train"}], "tokenizer": "byte"}
    with pytest.raises(ValidationError, match=r"model\.causal must be true .* got false"):
        RunConfig.model_validate({"data": data, "model": {"causal": False}})
