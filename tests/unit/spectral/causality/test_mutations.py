"""A proof that stays green when the model is broken is no proof: each break turns a check red."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import spectral.filters.modal
import spectral.mixers.fft
import spectral.mixers.heads_bidirectional
import spectral.mixers.wavelet
import spectral.modules.delta
import spectral.modules.recall
import spectral.modules.short_conv
from spectral.filters.gated import GatedFilter
from spectral.gates.spectral_gate import SpectralGate
from spectral.lm import SpectralLM
from spectral.modules.rotary import Turns
from spectral.sequence.span import Carry, Span
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_isolated,
    check_recurrent,
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


DELTA = {"recall_rule": "delta", "recall_phase": "data", "conv_heads": (0,)}


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
    monkeypatch.undo()
    monkeypatch.setattr(Span, "start_matrix_carry", carry)
    with pytest.raises(AssertionError, match=message):
        check_causal(small_model(small_config(num_layers=1, **DELTA)))


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


@pytest.mark.parametrize("breaks", [_keep_everything, _write_everything])
def test_a_broken_reset_of_delta_heads(
    breaks: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match="sees another document"):
        check_isolated(small_model(small_config(**DELTA)))


def test_an_erasure_across_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = spectral.modules.delta.delta_write
    monkeypatch.setattr(spectral.modules.delta, "delta_write", lambda *i: operator(*i[:5]))
    with pytest.raises(AssertionError, match="another document"):
        check_isolated(small_model(small_config(**DELTA)))


def test_a_state_that_does_not_turn_at_the_end_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "at_end", lambda _self, state: state)
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config(**DELTA)))


def test_a_recall_mask_that_includes_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(small_config(conv_heads=(0,)))
    monkeypatch.setattr(Tensor, "tril_", lambda seen, *_: seen)
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(model)
    with pytest.raises(AssertionError, match="a logit sees the future"):
        check_causal(small_model(small_config(**DELTA)))


def test_a_decay_that_the_recurrent_form_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    step = spectral.filters.modal.ModalFilter.step
    monkeypatch.setattr(
        spectral.filters.modal.ModalFilter,
        "step",
        lambda self, u, state, *place: step(self, u, 0.99 * state, *place),
    )
    with pytest.raises(AssertionError):
        check_recurrent(small_model(small_config()))


@pytest.mark.parametrize("changes", [{}, DELTA], ids=["default", "delta"])
@pytest.mark.parametrize("check", [check_causal, check_isolated, check_recurrent])
def test_every_check_is_green_without_a_break(check: Check, changes: dict[str, object]) -> None:
    check(small_model(small_config(**changes)))


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
