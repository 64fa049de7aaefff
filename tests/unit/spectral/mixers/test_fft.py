"""The causal hierarchical FFT: its definition on integers, later chunks only, one result."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.config import ModelConfig
from spectral.filters.modal import ModalFilter
from spectral.mixers.context import SequenceContext
from spectral.mixers.fft import FFTMixer
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


def _config(
    chunk: int = 8, overlap: float = 0.25, fft: dict[str, object] | None = None, **changes: object
) -> ModelConfig:
    table = {"chunk": chunk, "overlap": overlap} | (fft or {})
    return small_config(mixers=("fft",), fft=table, **changes)


def _context(segments_BT: torch.Tensor | None = None, position: int = 0) -> SequenceContext:
    empty = torch.empty(0)
    return SequenceContext(position, empty, empty, segments_BT, {})


def _far(mixer: FFTMixer, u_BDT: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
    return mixer._far(u_BDT, _context(segments), None)[0]


def _integer_mixer(chunk: int, overlap: float) -> FFTMixer:
    """Nothing fades, windows are rectangular, cross-fades are steps: every output is an integer."""
    mixer = FFTMixer(_config(chunk, overlap, dim=8), layer=0).double()
    with torch.no_grad():
        mixer.frames.window_logits.copy_(torch.tensor([-1e4, -1e4, 1e4]))
        # later by a little than the middle, so that no token is half of each
        mixer.frames.fade.copy_(torch.tensor([12.0, 0.01]))
        mixer.fusion.query_key.zero_()
        mixer.fusion.log_decay_H.fill_(-math.inf)
        # the constant feature alone weighs one half
        mixer.fusion.band_scale_HG.fill_(2.0)
    return mixer


def _definition(mixer: FFTMixer, u_DT: torch.Tensor, segments: list[int]) -> torch.Tensor:
    """Every frame goes on with its own period, heard by later chunks of its document only."""
    C, V, T = mixer.chunk, mixer.shared, u_DT.shape[1]
    F = C + V
    later = mixer.frames.fade_in(V).round().tolist()
    y_DT = torch.zeros_like(u_DT)

    def heard(j: int, s: int, document: int) -> torch.Tensor:
        total = torch.zeros_like(u_DT[:, 0])
        for i in range(j):
            end = (i + 1) * C - 1
            time = i * C - V + (s + (j - 1 - i) * C) % F
            if segments[end] == document and time >= 0 and segments[time] == document:
                total = total + u_DT[:, time]
        return total

    for t in range(T):
        j, s = divmod(t, C)
        y_DT[:, t] = heard(j, s, segments[t])
        if s < V and j > 0:
            before = heard(j - 1, C + s, segments[t])
            y_DT[:, t] = later[s] * y_DT[:, t] + (1.0 - later[s]) * before
    return y_DT


@settings(deadline=None, max_examples=30)
@given(
    T=st.integers(1, 40), chunk=st.integers(1, 9), overlap=st.sampled_from([0.1, 0.25, 0.5]),
    data=st.data(),
)  # fmt: skip
def test_integer_oracle_with_documents(
    T: int, chunk: int, overlap: float, data: st.DataObject
) -> None:
    borders = data.draw(st.sets(st.integers(1, max(1, T - 1)), max_size=4))
    segments = torch.zeros(1, T, dtype=torch.long)
    for border in borders:
        segments[:, border:] += 1
    mixer = _integer_mixer(chunk, overlap)
    generator = torch.Generator().manual_seed(T + chunk)
    u = torch.randint(-5, 6, (1, 8, T), generator=generator, dtype=torch.float64)
    expected = _definition(mixer, u[0], segments[0].tolist())
    far = _far(mixer, u, segments)[0]
    # rounding errors grow with the number of chunks that are summed, each about 1e-15 of 5
    assert (far - far.round()).abs().max() < 1e-9
    assert torch.equal(far.round(), expected)


@pytest.mark.parametrize("gates", [{}, SETTINGS["everything"]], ids=["plain", "gated"])
def test_a_token_changes_later_chunks_only(gates: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = small_model(_config(8, num_modes=8, **gates))
    mixer = model.blocks[0].mixer
    u = torch.randn(1, 16, 40, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda u: _far(mixer, u, None), u)
    influence_TT = jacobian[0, :, :, 0].abs().amax(dim=(0, 2))
    chunk_T = torch.arange(40) // 8
    assert influence_TT[chunk_T[:, None] <= chunk_T].max() == 0.0
    assert (influence_TT[chunk_T[:, None] > chunk_T] > 0).all()


def test_a_chunk_is_heard_200k_tokens_later() -> None:
    torch.manual_seed(0)
    mixer = FFTMixer(ModelConfig(dim=4, num_heads=2, mixers=("fft",), num_modes=2), layer=0).float()
    mixer.reset_parameters(0.5, 0.5)
    u = torch.randn(1, 4, 204_800, requires_grad=True)
    far = _far(mixer, u, None)
    (grad,) = torch.autograd.grad(far[..., -1].sum(), u)
    by_chunk = grad.view(4, 25, 8_192).abs().amax(dim=(0, 2))
    assert by_chunk[24] == 0.0
    assert (by_chunk[:24] > 1e-6).all()


def test_positions_of_late_chunks_are_exact() -> None:
    """Phases are whole numbers of bins before they are rounded, however late the chunk."""
    from spectral.modules.chunk_fusion import turns

    chunk, frame, first = 8_192, 9_216, 9 * 10**6
    late = turns(first, 2, chunk, frame, like=torch.zeros(1, dtype=torch.float64))
    # 9 chunks are 8 frames: everything repeats
    torch.testing.assert_close(late, turns(0, 2, chunk, frame, like=torch.zeros(1).double()))


@pytest.mark.parametrize("name", SETTINGS)
def test_gated_models_stay_causal_isolated_and_recurrent(name: str) -> None:
    model = small_model(_config(4, num_modes=8, **SETTINGS[name]))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)


@pytest.mark.parametrize(
    ("chunk", "overlap"), [(1, 0.5), (3, 0.1), (5, 0.4), (8, 0.125), (24, 0.25), (64, 0.1)]
)
def test_any_frames_stay_causal_isolated_and_recurrent(chunk: int, overlap: float) -> None:
    model = small_model(_config(chunk, overlap))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)


@pytest.mark.parametrize("changes", [{"bands": 1}, {"fusion_dim": 1}, {"bands": 9}])
def test_without_bands_or_queries(changes: dict[str, object]) -> None:
    model = small_model(_config(8, fft=changes))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)
    check_gradients(_config(8, fft=changes))


def test_without_queries_a_chunk_is_heard_whatever_it_is_like() -> None:
    """What a chunk hears is linear in those before it; queries and keys make it depend on them."""
    torch.manual_seed(0)
    u = torch.randn(1, 16, 40, dtype=torch.float64)
    other = torch.randn(1, 16, 40, dtype=torch.float64)
    for features, linear in ((1, True), (4, False)):
        mixer = small_model(_config(8, fft={"fusion_dim": features})).blocks[0].mixer
        heard, of_other, of_sum = (_far(mixer, x, None) for x in (u, other, u + other))
        assert torch.allclose(of_sum, heard + of_other, rtol=0.0, atol=1e-10) == linear


@pytest.mark.parametrize("split", [1, 7, 8, 11, 16, 29])
def test_a_prompt_may_come_in_pieces(split: int) -> None:
    model, tokens = small_model(_config(8)), some_tokens(2, 30)
    head, state = model.prefill(tokens[:, :split])
    tail, _ = model.prefill(tokens[:, split:], state=state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), model(tokens))


@pytest.mark.parametrize(("num_before", "num_tokens"), [(30, 8), (49, 4)])
@pytest.mark.parametrize("in_steps", [True, False])
@torch.no_grad()
def test_a_packed_prompt_inside_a_chunk(num_before: int, num_tokens: int, in_steps: bool) -> None:
    """It asks for no spectrum, and hands on what a prompt with spectra hands on."""
    model = small_model(_config(24, 0.25))
    head, tail, rest = some_tokens(1, num_before), some_tokens(1, num_tokens), some_tokens(1, 30)
    # the document ends after 3 tokens; in a chunk's first 6, that of before still fades
    segments = (torch.arange(num_tokens) >= 3).long()[None]
    logits = []
    for begin, with_grad in ((head, False), (head, True), ((head + 7) % 40, False)):
        _, state = model.prefill(begin)
        with torch.set_grad_enabled(with_grad):
            found, state = model.prefill(tail, segments, state)
        logits.append([found[:, 3:]])
        for part in rest.split(1 if in_steps else 30, dim=1):
            found, state = model.prefill(part, state=state)
            logits[-1].append(found)
    short, whole, other = (torch.cat(parts, dim=1) for parts in logits)
    torch.testing.assert_close(short, whole)
    torch.testing.assert_close(short, other)


def test_memory_is_bounded_by_a_chunk() -> None:
    model = small_model(_config(8))
    _, state = model.prefill(some_tokens(1, 8))
    sizes = set()
    for token in some_tokens(1, 40).unbind(1):
        _, state = model.step(token, state)
        inner = state.layers[0].inner
        sizes.add(sum(piece.shape[-1] for piece in inner.recent))
        # what frames share, and a piece for each digit of a count up to 8
        assert len(inner.recent) <= 1 + 4
    assert sizes == set(range(3, 11))


def test_gradients_are_right() -> None:
    """Of the signal and of every parameter of fusion, window and cross-fade, in float64."""
    torch.manual_seed(0)
    mixer = FFTMixer(_config(4, dim=8, num_modes=4), layer=0).double()
    mixer.near = ModalFilter(8, 1, 4, 4.0).double()
    parameters = [*mixer.fusion.parameters(), *mixer.frames.parameters()]
    for parameter in parameters:
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    u = torch.randn(1, 8, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda u, *_: _far(mixer, u, None), (u, *parameters), fast_mode=True
    )


def test_gradients_reach_every_parameter() -> None:
    check_gradients(_config(8, num_modes=8, **SETTINGS["everything"]))


def test_every_feature_together_stays_causal_isolated_and_recurrent() -> None:
    model = small_model(
        small_config(
            mixers=("fft", "wavelet", "heads"),
            num_layers=3,
            fft={"chunk": 4},
            num_modes=8,
            embedding="harmonic",
            feed_forward="frequency",
            **SETTINGS["everything"],
        )
    )
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)
