"""Breaks of the FFT, of wavelets, of encoders and of kept states: each turns a check red."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import spectral.mixers.fft
import spectral.mixers.wavelet
from spectral.mixers.context import SequenceContext, sequence_context
from spectral.mixers.fft import FFTMixer
from spectral.mixers.wavelet import WaveletMixer
from spectral.modules.chunk_fusion import ChunkFusion
from spectral.modules.short_conv import ShortConv
from tests.unit.spectral.causality.checks import (
    SEGMENTS,
    check_bidirectional,
    check_causal,
    check_isolated,
    check_recurrent,
    check_state_isolated,
    small_config,
    small_model,
)


def _same_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, shared tokens and tails of the chunk itself, where the one before is meant."""
    monkeypatch.setattr(spectral.mixers.fft, "_from_before", lambda values, _initial, _span: values)


def _later_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused spectra that hold the chunk that reads them."""
    read = ChunkFusion.read
    monkeypatch.setattr(
        ChunkFusion, "read", lambda self, state, *rest: read(self, state.roll(-1, dims=1), *rest)
    )


def _centred_wavelets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters around a token, as wavelet libraries have them."""
    levels = spectral.mixers.wavelet.causal_levels
    monkeypatch.setattr(
        spectral.mixers.wavelet,
        "causal_levels",
        lambda *given: [level.roll(-1, dims=-1) for level in levels(*given)],
    )


@pytest.mark.parametrize(
    ("breaks", "mixer"),
    [(_same_chunk, "fft"), (_later_state, "fft"), (_centred_wavelets, "wavelet")],
)
def test_a_far_reader_that_sees_the_future(
    breaks: Callable[[pytest.MonkeyPatch], None], mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(small_model(small_config(mixers=(mixer,), fft={"chunk": 4})))


def _break_borders(monkeypatch: pytest.MonkeyPatch, **broken: object) -> None:
    find = spectral.mixers.fft.chunk_borders

    def change(*given: object) -> object:
        found = find(*given)  # type: ignore[arg-type]
        return found._replace(**{name: torch.ones_like(getattr(found, name)) for name in broken})

    monkeypatch.setattr(spectral.mixers.fft, "chunk_borders", change)


@pytest.mark.parametrize("name", ["keep_BJ", "before_first_BJC", "after_last_BJC"])
def test_a_broken_reset_of_the_fft(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _break_borders(monkeypatch, **{name: True})
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(mixers=("fft",), fft={"chunk": 4})))


def test_wavelets_across_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spectral.mixers.wavelet, "_ages", lambda segments: torch.full_like(segments, 1_000)
    )
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(mixers=("wavelet",))))


@pytest.mark.parametrize("mixer", ["fft", "wavelet"])
def test_an_encoder_that_does_not_split_documents(
    mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "spectral.mixers.per_document.per_document", lambda convolve, u, _segments: convolve(u)
    )
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(mixers=(mixer,), causal=False)), SEGMENTS)


def test_an_encoder_whose_second_direction_keeps_the_borders_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward_borders(*arguments: Any) -> SequenceContext:
        context = sequence_context(*arguments)
        return context._replace(backward=context)

    monkeypatch.setattr("spectral.backbone.sequence_context", forward_borders)
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(causal=False)), SEGMENTS)


def _phases_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that forgets how many chunks there were: spectra turn by too little."""
    rotation = spectral.mixers.fft.phase_rotation
    monkeypatch.setattr(
        spectral.mixers.fft,
        "phase_rotation",
        lambda first, *rest, like: rotation(min(first, 1), *rest, like=like),
    )


def _late_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent wavelets one token late."""
    taps = spectral.mixers.wavelet.causal_filters
    monkeypatch.setattr(
        spectral.mixers.wavelet,
        "causal_filters",
        lambda *given: [[0.0, *row[:-1]] for row in taps(*given)],
    )


@pytest.mark.parametrize(("breaks", "mixer"), [(_phases_from_zero, "fft"), (_late_taps, "wavelet")])
def test_a_broken_decoder(
    breaks: Callable[[pytest.MonkeyPatch], None], mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config(mixers=(mixer,), fft={"chunk": 4})))


def _forget_borders(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """What is remembered of a packed row is as if it were one document."""
    operator = getattr(owner, name)

    def broken(self: object, x: Tensor, *given: object) -> object:
        bare = [
            item._replace(segment_ids_BT=None) if isinstance(item, SequenceContext) else item
            for item in given
        ]
        if owner is ShortConv:
            bare = [None, *given[1:]]
        found = list(operator(self, x, *given))
        found[1] = operator(self, x, *bare)[1]
        return found

    monkeypatch.setattr(owner, name, broken)


STATES = [(ShortConv, "forward"), (FFTMixer, "_far"), (WaveletMixer, "convolve")]


@pytest.mark.parametrize(("owner", "name"), STATES, ids=["heads", "fft", "wavelet"])
def test_a_state_that_forgets_borders(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixer = {FFTMixer: "fft", WaveletMixer: "wavelet"}.get(owner, "heads")
    model = small_model(small_config(mixers=(mixer,), fft={"chunk": 4}))
    check_state_isolated(model)
    _forget_borders(monkeypatch, owner, name)
    with pytest.raises(AssertionError, match="a state hears another document"):
        check_state_isolated(model)


@pytest.mark.parametrize("mixer", ["fft", "wavelet"])
def test_the_checks_of_other_mixers_are_green_without_a_break(mixer: str) -> None:
    for check in (check_causal, check_isolated, check_recurrent):
        check(small_model(small_config(mixers=(mixer,), fft={"chunk": 4})))
