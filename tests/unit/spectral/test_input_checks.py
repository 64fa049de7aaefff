"""What a model cannot take is refused with what was found and what was expected."""

import math

import pytest
import torch

from spectral.mixers.build import MIXERS
from spectral.modules.wavelet_transform import FilterBank
from tests.unit.spectral.causality.checks import small_config, small_model, some_tokens

SOME = some_tokens(1, 5)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (SOME[:, :0], r"expected \[B, T\] with T >= 1, got \(1, 0\)"),
        (SOME[:0], r"expected \[B, T\] with T >= 1, got \(0, 5\)"),
        (SOME[0], r"expected \[B, T\] with T >= 1, got \(5,\)"),
        (SOME.float(), "expected int64 or int32, got torch.float32"),
        (SOME.to(torch.uint8), "expected int64 or int32, got torch.uint8"),
        (SOME + 40, "expected ids from 0 to 39, got"),
        (SOME - 40, "expected ids from 0 to 39, got"),
    ],
)
def test_impossible_tokens(tokens: torch.Tensor, message: str) -> None:
    model = small_model(small_config())
    for call in (model, model.prefill):
        with pytest.raises(ValueError, match=f"tokens: {message}"):
            call(tokens)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (SOME.T, r"expected shape \(1, 5\), got \(5, 1\)"),
        (SOME.float(), "expected int64 or int32, got torch.float32"),
        (SOME + 40, "expected -100 or 0 to 39, got"),
        (SOME - 99, "expected -100 or 0 to 39, got"),
    ],
)
def test_impossible_labels(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels: {message}"):
        small_model(small_config())(SOME, labels_BT=labels)


@pytest.mark.parametrize("mixer", MIXERS)
def test_impossible_states_and_numbers_of_logits(mixer: str) -> None:
    model = small_model(small_config(mixers=(mixer,)))
    _, state = model.prefill(SOME)
    message = "state: expected 2 rows, as the tokens have, got 1 at position 5"
    with pytest.raises(ValueError, match=message):
        model.step(some_tokens(2), state)
    with pytest.raises(ValueError, match=message):
        model.prefill(some_tokens(2, 3), state=state)
    with pytest.raises(ValueError, match="num_logits: expected at least 0, got -3"):
        model.prefill(SOME, num_logits=-3)


def test_filters_of_another_family() -> None:
    haar = small_config(mixers=("wavelet",), wavelet={"family": "haar"}).wavelet.bank
    with pytest.raises(ValueError, match="expected the 32 numbers of wavelet 'db4', got 8 others"):
        small_config(mixers=("wavelet",), wavelet={"family": "db4", "bank": haar})
    own = small_config(mixers=("wavelet",), wavelet={"family": "haar", "bank": haar})
    assert own.wavelet.family == "haar"


def test_impossible_tokens_of_a_step() -> None:
    model = small_model(small_config())
    _, state = model.prefill(SOME)
    with pytest.raises(ValueError, match=r"tokens: expected \[B\], got \(1, 5\)"):
        model.step(SOME, state)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_embeddings_that_are_not_finite(value: float) -> None:
    model = small_model(small_config())
    with torch.no_grad():
        model.embedding.weight[SOME[0, 3], 2] = value
    with pytest.raises(ValueError, match=rf"embedding: expected finite numbers, got {value} at"):
        model(SOME)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([[0, 0, 1, 0, 1]], "ids must not go back, got 1 then 0 at row 0, position 3"),
        ([[0.0, 0.0, 1.0, 1.0, math.nan]], "expected integers, got torch.float32"),
        ([[0, 0, 1, 1]], r"expected shape \(1, 5\), got \(1, 4\)"),
    ],
)
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("causal", [True, False])
def test_impossible_documents(
    segments: list[list[float]], message: str, mixer: str, causal: bool
) -> None:
    model = small_model(small_config(mixers=(mixer,), causal=causal))
    with pytest.raises(ValueError, match=f"segment_ids: .*{message}"):
        model(SOME, torch.tensor(segments))


@pytest.mark.parametrize("taps", [(), (1.0,) * 12, (1.0,) * 5])
def test_impossible_filter_banks(taps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=f"one even length, got {len(taps)} numbers"):
        FilterBank.from_flat(taps)
