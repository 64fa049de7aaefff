"""Wavelet analysis is PyWavelets'; the causal form is one-sided, isolated and recurrent."""

import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral.config import ModelConfig
from spectral.mixers.wavelet import WaveletMixer, _ages
from spectral.modules.wavelet_config import filter_bank
from spectral.modules.wavelet_transform import (
    FilterBank,
    causal_filters,
    causal_levels,
    decompose,
    reach,
    reconstruct,
)
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_gradients,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
    some_tokens,
)
from tests.unit.spectral.gates.test_spectral_gate import SETTINGS

FAMILIES = ("haar", "db4", "sym5", "coif2", "bior2.2", "rbio3.1")


def _bank(family: str) -> FilterBank:
    return FilterBank.from_flat(filter_bank(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("levels", [1, 3])
def test_coefficients_and_reconstruction_are_pywavelets(family: str, levels: int) -> None:
    torch.manual_seed(0)
    bank = _bank(family)
    for length in (*range(1, 40), 1_000):
        u = torch.randn(2, 3, length, dtype=torch.float64)
        with warnings.catch_warnings():
            # more levels than a short signal can fill are well defined all the same
            warnings.filterwarnings("ignore", message="Level value", category=UserWarning)
            expected = pywt.wavedec(u.numpy(), family, mode="zero", level=levels)
        found = decompose(u, bank, levels)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(reconstruct(found, bank, length), u, rtol=0, atol=1e-10)


def test_reconstruction_in_float32_at_200k_tokens() -> None:
    torch.manual_seed(0)
    u, bank = torch.randn(1, 2, 204_800), _bank("db4")
    error = (reconstruct(decompose(u, bank, 3), bank, 204_800) - u).abs().max()
    assert error <= 1e-5 * u.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_levels_hold_pywavelets_coefficients(family: str) -> None:
    """Level l without decimation equals the decimated one at the last token of each block."""
    torch.manual_seed(0)
    u, levels = torch.randn(2, 3, 200, dtype=torch.float64), 3
    *details, rest = causal_levels(u, _bank(family), levels)
    approximation, *decimated = pywt.wavedec(u.numpy(), family, mode="zero", level=levels)
    for level, (ours, theirs) in enumerate(zip(details, reversed(decimated), strict=True), 1):
        ours = ours[..., 2**level - 1 :: 2**level].numpy()
        np.testing.assert_allclose(ours, theirs[..., : ours.shape[-1]], rtol=0, atol=1e-12)
    ours = rest[..., 7::8].numpy()
    np.testing.assert_allclose(ours, approximation[..., : ours.shape[-1]], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(T=st.integers(1, 40), levels=st.integers(1, 3), data=st.data())
def test_integer_oracle_with_documents(T: int, levels: int, data: st.DataObject) -> None:
    """Integer filters make every number exact: the levels equal their direct sums."""
    borders = data.draw(st.sets(st.integers(1, max(1, T - 1)), max_size=5))
    segments = torch.zeros(1, T, dtype=torch.long)
    for border in borders:
        segments[:, border:] += 1
    bank = FilterBank.from_flat([2, 1, -1, 3, 1, -2, 1, 1] + 8 * [0])
    generator = torch.Generator().manual_seed(T)
    u = torch.randint(-5, 6, (1, 2, T), generator=generator, dtype=torch.float64)
    found = causal_levels(u, bank, levels, _ages(segments))
    filters = causal_filters(bank, levels)
    assert {len(taps) for taps in filters} == {reach(bank, levels)}
    for level, taps in zip(found, filters, strict=True):
        for t in range(T):
            lags = [
                lag
                for lag in range(min(t + 1, len(taps)))
                if segments[0, t - lag] == segments[0, t]
            ]
            expected = sum((taps[lag] * u[0, :, t - lag] for lag in lags), torch.zeros(2))
            assert torch.equal(level[0, :, t], expected)
    if not borders:
        for plain, masked in zip(causal_levels(u, bank, levels), found, strict=True):
            torch.testing.assert_close(plain, masked)


@pytest.mark.parametrize("name", ["entropy_weight", "selection", "everything"])
def test_gated_models_stay_causal_isolated_and_recurrent(name: str) -> None:
    model = small_model(small_config(mixers=("wavelet",), num_modes=8, **SETTINGS[name]))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)


@pytest.mark.parametrize(("family", "levels"), [("db4", 3), ("haar", 2), ("bior2.2", 1)])
def test_any_family_stays_causal_isolated_and_recurrent(family: str, levels: int) -> None:
    model = small_model(
        small_config(mixers=("wavelet",), wavelet={"family": family, "levels": levels})
    )
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)


@pytest.mark.parametrize("split", [1, 7, 29])
def test_a_prompt_may_come_in_pieces(split: int) -> None:
    model, tokens = small_model(small_config(mixers=("wavelet",))), some_tokens(2, 30)
    head, state = model.prefill(tokens[:, :split])
    tail, _ = model.prefill(tokens[:, split:], state=state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), model(tokens))


def test_gradients_of_analysis_and_synthesis_are_right() -> None:
    torch.manual_seed(0)
    bank, u = _bank("db4"), torch.randn(1, 2, 19, dtype=torch.float64, requires_grad=True)
    age = _ages(torch.tensor([[0] * 7 + [1] * 12]))

    def both(u: torch.Tensor) -> torch.Tensor:
        squares = [part.square() for part in decompose(u, bank, 2)]
        return reconstruct(squares, bank, 19) + sum(causal_levels(u, bank, 2, age))

    assert torch.autograd.gradcheck(both, (u,))


def test_gradients_reach_every_parameter() -> None:
    config = small_config(mixers=("wavelet",), num_modes=8, **SETTINGS["everything"])
    check_gradients(config)


def test_a_configuration_holds_its_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(mixers=("wavelet",), dim=8, num_heads=2)
    assert config.wavelet.bank == filter_bank("db4")
    # an exported model has the table and no PyWavelets
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    again = ModelConfig.model_validate(config.model_dump())
    assert WaveletMixer(again, layer=0).bank == FilterBank.from_flat(config.wavelet.bank)
    assert ModelConfig(dim=8, num_heads=2).wavelet.bank == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wavelet": {"family": "db99"}}, "a discrete wavelet of PyWavelets .* got 'db99'"),
        ({"wavelet": {"family": "morl"}}, "a discrete wavelet of PyWavelets .* got 'morl'"),
        ({"wavelet": {"levels": 0}}, "greater than or equal to 1"),
        ({"wavelet": {"bank": (1.0, 2.0, 3.0)}}, "four filters of one even length, got 3"),
        ({"wavelet": {"bank": (1.0,) * 8}}, "the 32 numbers of wavelet 'db4', got 8 others"),
        ({"mixers": ("attention",)}, "'heads', .*'wavelet'"),
        ({"mixers": ()}, "at least 1 item"),
        ({"mixers": 5}, "valid tuple"),
        ({"fft": {"chunk": -1}}, "greater than or equal to 0"),
        ({"fft": {"overlap": 0.6}}, "less than or equal to 0.5"),
        ({"fft": {"overlap": 0.0}}, "greater than 0"),
        ({"fft": {"fusion_dim": 0}}, "greater than or equal to 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(**{"mixers": ("wavelet",), **changes})  # type: ignore[arg-type]
