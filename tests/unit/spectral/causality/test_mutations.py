"""A proof that stays green when the model is broken is no proof: each break turns a check red."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import spectral.filters.modal
import spectral.mixers.fft
import spectral.mixers.heads_bidirectional
import spectral.mixers.wavelet
import spectral.modules.recall
import spectral.modules.short_conv
from spectral.filters.gated import GatedFilter
from spectral.gates.spectral_gate import SpectralGate
from spectral.lm import SpectralLM
from spectral.mixers.context import SequenceContext
from spectral.mixers.fft import FFTMixer
from spectral.mixers.wavelet import WaveletMixer
from spectral.modules.chunk_fusion import ChunkFusion
from spectral.modules.short_conv import ShortConv
from spectral.sequence.span import Carry, Span
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
from tests.unit.spectral.gates.test_spectral_gate import SETTINGS

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


def _forgetful(_span: Span, decay: Tensor, update: Tensor, initial: Tensor) -> Carry:
    """A carry that brings nothing to the next chunk."""
    del decay
    return Carry(lambda: (torch.zeros_like(update), torch.zeros_like(initial)))


def _prophetic(_span: Span, decay: Tensor, update: Tensor, initial: Tensor) -> Carry:
    """A carry that hands every chunk its own end state."""
    del decay
    return Carry(lambda: (update, initial))


@pytest.mark.parametrize("conv_heads", [(4,), (2,)])
@pytest.mark.parametrize("convolution", [_circular, _late_padding])
def test_a_convolution_that_leaks_the_future(
    convolution: object, conv_heads: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral.filters.modal, "fft_conv", convolution)
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
    monkeypatch.setattr(Span, "start_carry", carry)
    with pytest.raises(AssertionError, match=message):
        check_causal(small_model(small_config(conv_heads=conv_heads, num_layers=1)))


def _keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that reset nothing of the carried state."""
    import spectral.mixers.context

    find = spectral.mixers.context.chunk_documents

    def broken(segments: Tensor, chunk: int, before: Tensor | None) -> object:
        found = find(segments, chunk, before)
        return found._replace(
            keep_BJ=torch.ones_like(found.keep_BJ),
            before_first_BJC=torch.ones_like(found.before_first_BJC),
        )

    monkeypatch.setattr(spectral.mixers.context, "chunk_documents", broken)


def _write_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that hand on what they read of documents that have ended."""
    import spectral.mixers.context

    find = spectral.mixers.context.chunk_documents

    def broken(segments: Tensor, chunk: int, before: Tensor | None) -> object:
        found = find(segments, chunk, before)
        return found._replace(after_last_BJC=torch.ones_like(found.after_last_BJC))

    monkeypatch.setattr(spectral.mixers.context, "chunk_documents", broken)


def _no_isolation_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = spectral.filters.modal.ModalFilter
    monkeypatch.setattr(module, "_isolate", lambda _self, y, *_: y)


def _short_conv_across_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = spectral.modules.short_conv.short_conv
    monkeypatch.setattr(spectral.modules.short_conv, "short_conv", lambda *i: operator(*i[:3]))


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
    step = spectral.filters.modal.ModalFilter.step
    monkeypatch.setattr(
        spectral.filters.modal.ModalFilter,
        "step",
        lambda self, u, state, *place: step(self, u, 0.99 * state, *place),
    )
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config()))


@pytest.mark.parametrize("check", [check_causal, check_isolated, check_recurrent])
def test_every_check_is_green_without_a_break(check: Check) -> None:
    check(small_model(small_config()))


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


@pytest.mark.parametrize("module", ["fft_bidirectional", "wavelet_bidirectional"])
def test_an_encoder_that_does_not_split_documents(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixer = module.removesuffix("_bidirectional")
    monkeypatch.setattr(
        f"spectral.mixers.{module}.per_document", lambda convolve, u, _segments: convolve(u)
    )
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(mixers=(mixer,), causal=False)), SEGMENTS)


def test_an_encoder_whose_second_direction_keeps_the_borders_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spectral.mixers.heads_bidirectional, "_reversed", lambda context: context)
    with pytest.raises(AssertionError, match="sees another document"):
        check_bidirectional(small_model(small_config(causal=False)), SEGMENTS)


def _phases_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that forgets how many chunks there were: spectra turn by too little."""
    turns = spectral.mixers.fft.turns
    monkeypatch.setattr(
        spectral.mixers.fft,
        "turns",
        lambda first, *rest, like: turns(min(first, 1), *rest, like=like),
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


GATES = ["bands", "soft_threshold", "cross_head", "magnitude_mixing", "selection"]


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_looks_at_the_next_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(small_config(num_modes=8, conv_heads=(4,), **SETTINGS[name]))
    forward = SpectralGate.forward
    monkeypatch.setattr(
        SpectralGate,
        "forward",
        lambda self, spectrum, *rest, **options: forward(
            self, spectrum.roll(-1, 0), *rest, **options
        ),
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
        GatedFilter,
        "step",
        lambda self, u, state, position, layout: step(self, u, state, position - 1, layout),
    )
    with pytest.raises(AssertionError):
        check_recurrent(model)


@pytest.mark.parametrize("mixer", ["fft", "wavelet"])
def test_the_checks_of_other_mixers_are_green_without_a_break(mixer: str) -> None:
    for check in (check_causal, check_isolated, check_recurrent):
        check(small_model(small_config(mixers=(mixer,), fft={"chunk": 4})))
