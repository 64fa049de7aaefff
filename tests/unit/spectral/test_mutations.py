"""A proof that stays green when the model is broken is no proof: each break turns a check red."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import spectral.bidirectional
import spectral.fft_mixer
import spectral.modes
import spectral.recall_heads
import spectral.short_conv
import spectral.wavelet_mixer
from spectral.context import SequenceContext
from spectral.fft_mixer import FFTMixer
from spectral.fusion import ChunkFusion
from spectral.gated_filter import GatedFilter
from spectral.gating import SpectralGate
from spectral.lm import SpectralLM
from spectral.short_conv import ShortConv
from spectral.span import Carried, Span
from spectral.wavelet_mixer import WaveletMixer
from tests.unit.spectral.checks import (
    SEGMENTS,
    check_bidirectional,
    check_causal,
    check_isolated,
    check_recurrent,
    check_state_isolated,
    small_config,
    small_model,
)
from tests.unit.spectral.test_gates import SETTINGS

Check = Callable[[SpectralLM], None]


def _circular(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """The trap of the field: an FFT without padding, whose end wraps around to its beginning."""
    C = u_DNC.shape[-1]
    spectrum = torch.fft.rfft(u_DNC, n=C) * torch.fft.rfft(h_DC, n=C)[:, None]
    return torch.fft.irfft(spectrum, n=C)


def _late_padding(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Off by one: every output is the one of the next token."""
    C = u_DNC.shape[-1]
    spectrum = torch.fft.rfft(u_DNC, n=2 * C) * torch.fft.rfft(h_DC, n=2 * C)[:, None]
    return torch.fft.irfft(spectrum, n=2 * C)[..., 1 : C + 1]


def _forgetful(_span: Span, decay: Tensor, update: Tensor, initial: Tensor) -> Carried:
    """A carry that brings nothing to the next chunk."""
    del decay
    return lambda: (torch.zeros_like(update), torch.zeros_like(initial))


def _prophetic(_span: Span, decay: Tensor, update: Tensor, initial: Tensor) -> Carried:
    """A carry that hands every chunk its own end state."""
    del decay
    return lambda: (update, initial)


@pytest.mark.parametrize("conv_heads", [(4,), (2,)])
@pytest.mark.parametrize("convolution", [_circular, _late_padding])
def test_a_convolution_that_leaks_the_future(
    convolution: object, conv_heads: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral.modes, "fft_conv", convolution)
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(small_model(small_config(conv_heads=conv_heads)))


@pytest.mark.parametrize("conv_heads", [(4,), (0,), (2,)])
@pytest.mark.parametrize(
    ("carry", "message"),
    [(_forgetful, "does not see its past"), (_prophetic, "sees the future")],
)
def test_a_broken_carry(
    carry: object, message: str, conv_heads: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Span, "carry", carry)
    with pytest.raises(AssertionError, match=message):
        check_causal(small_model(small_config(conv_heads=conv_heads, num_layers=1)))


def _keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that reset nothing of the carried state."""
    import spectral.context

    find = spectral.context.chunk_documents

    def broken(segments: Tensor, chunk: int, before: Tensor | None) -> object:
        found = find(segments, chunk, before)
        return found._replace(
            keep_BJ=torch.ones_like(found.keep_BJ),
            before_first_BJC=torch.ones_like(found.before_first_BJC),
        )

    monkeypatch.setattr(spectral.context, "chunk_documents", broken)


def _write_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that hand on what they read of documents that have ended."""
    import spectral.context

    find = spectral.context.chunk_documents

    def broken(segments: Tensor, chunk: int, before: Tensor | None) -> object:
        found = find(segments, chunk, before)
        return found._replace(after_last_BJC=torch.ones_like(found.after_last_BJC))

    monkeypatch.setattr(spectral.context, "chunk_documents", broken)


def _no_isolation_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = spectral.modes.ModalFilter
    monkeypatch.setattr(module, "_isolate", lambda _self, y, *_: y)


def _short_conv_across_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = spectral.short_conv.short_conv
    monkeypatch.setattr(spectral.short_conv, "short_conv", lambda *i: operator(*i[:3]))


@pytest.mark.parametrize(
    ("breaks", "conv_heads"),
    [
        (_keep_everything, (4,)),
        (_keep_everything, (0,)),
        (_write_everything, (4,)),
        (_write_everything, (0,)),
        (_no_isolation_in_chunks, (4,)),
        (_short_conv_across_borders, (2,)),
    ],
)
def test_a_broken_reset(
    breaks: Callable[[pytest.MonkeyPatch], None],
    conv_heads: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(conv_heads=conv_heads)))


def test_a_recall_mask_that_includes_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(small_config(conv_heads=(0,)))
    monkeypatch.setattr(Tensor, "tril_", lambda seen: seen)
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(model)


def test_a_decay_that_the_recurrent_form_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    step = spectral.modes.ModalFilter.step
    monkeypatch.setattr(
        spectral.modes.ModalFilter, "step", lambda self, u, state: step(self, u, 0.99 * state)
    )
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config()))


@pytest.mark.parametrize("check", [check_causal, check_isolated, check_recurrent])
def test_every_check_is_green_without_a_break(check: Check) -> None:
    check(small_model(small_config()))


def _same_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, shared tokens and tails of the chunk itself, where the one before is meant."""
    monkeypatch.setattr(FFTMixer, "_from_before", lambda _self, values, _initial: values)


def _later_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused spectra that hold the chunk that reads them."""
    read = ChunkFusion.read
    monkeypatch.setattr(
        ChunkFusion, "read", lambda self, state, *rest: read(self, state.roll(-1, dims=1), *rest)
    )


def _centred_wavelets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters around a token, as wavelet libraries have them."""
    levels = spectral.wavelet_mixer.causal_levels
    monkeypatch.setattr(
        spectral.wavelet_mixer,
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
        check_causal(small_model(small_config(mixers=(mixer,), fft_chunk=4)))


def _break_borders(monkeypatch: pytest.MonkeyPatch, **broken: object) -> None:
    find = spectral.fft_mixer.chunk_borders

    def change(*given: object) -> object:
        found = find(*given)  # type: ignore[arg-type]
        return found._replace(**{name: torch.ones_like(getattr(found, name)) for name in broken})

    monkeypatch.setattr(spectral.fft_mixer, "chunk_borders", change)


@pytest.mark.parametrize("name", ["keep_BJ", "before_first_BJC", "after_last_BJC"])
def test_a_broken_reset_of_the_fft(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _break_borders(monkeypatch, **{name: True})
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(mixers=("fft",), fft_chunk=4)))


def test_wavelets_across_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spectral.wavelet_mixer, "_ages", lambda segments: torch.full_like(segments, 1_000)
    )
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(mixers=("wavelet",))))


@pytest.mark.parametrize("module", ["fft_encoder", "wavelet_mixer"])
def test_an_encoder_that_does_not_split_documents(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixer = "fft" if module == "fft_encoder" else "wavelet"
    monkeypatch.setattr(
        f"spectral.{module}.per_document", lambda convolve, u, _segments: convolve(u)
    )
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(mixers=(mixer,), causal=False)), SEGMENTS)


def test_an_encoder_whose_second_direction_keeps_the_borders_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spectral.bidirectional, "_reversed", lambda context: context)
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(causal=False)), SEGMENTS)


def _phases_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that forgets how many chunks there were: spectra turn by too little."""
    turns = spectral.fft_mixer.turns
    monkeypatch.setattr(
        spectral.fft_mixer,
        "turns",
        lambda first, *rest, like: turns(min(first, 1), *rest, like=like),
    )


def _late_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent wavelets one token late."""
    taps = spectral.wavelet_mixer.causal_filters
    monkeypatch.setattr(
        spectral.wavelet_mixer,
        "causal_filters",
        lambda *given: [[0.0, *row[:-1]] for row in taps(*given)],
    )


@pytest.mark.parametrize(("breaks", "mixer"), [(_phases_from_zero, "fft"), (_late_taps, "wavelet")])
def test_a_broken_decoder(
    breaks: Callable[[pytest.MonkeyPatch], None], mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config(mixers=(mixer,), fft_chunk=4)))


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
    model = small_model(small_config(mixers=(mixer,), fft_chunk=4))
    check_state_isolated(model)
    _forget_borders(monkeypatch, owner, name)
    with pytest.raises(AssertionError, match="a state hears another document"):
        check_state_isolated(model)


GATES = ["band_gates", "soft_threshold", "cross_head", "magnitude_mixing", "bin_selection"]


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_looks_at_the_next_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(small_config(num_modes=8, conv_heads=(4,), **SETTINGS[name]))
    forward = SpectralGate.forward
    monkeypatch.setattr(
        SpectralGate,
        "forward",
        lambda self, spectrum, *rest: forward(self, spectrum.roll(-1, 0), *rest),
    )
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(model)


@pytest.mark.parametrize("name", GATES)
def test_a_gate_whose_decoder_begins_chunks_late(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(small_config(num_modes=8, conv_heads=(4,), **SETTINGS[name]))
    step = GatedFilter.step
    monkeypatch.setattr(
        GatedFilter, "step", lambda self, u, state, position: step(self, u, state, position - 1)
    )
    with pytest.raises(AssertionError):
        check_recurrent(model)


@pytest.mark.parametrize("mixer", ["fft", "wavelet"])
def test_the_checks_of_other_mixers_are_green_without_a_break(mixer: str) -> None:
    for check in (check_causal, check_isolated, check_recurrent):
        check(small_model(small_config(mixers=(mixer,), fft_chunk=4)))
