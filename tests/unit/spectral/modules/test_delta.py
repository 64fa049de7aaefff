"""Delta heads and turning recall heads against their recurrence: on integers, exactly."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectral.modules.delta import delta, delta_step
from spectral.modules.recall import recall, recall_step
from spectral.modules.rotary import Turns, chunk_turns
from spectral.sequence.documents import chunk_documents

H, K, V = 2, 4, 3
BORDERS = st.sets(st.integers(1, 40), max_size=6)


def _integers(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator, dtype=torch.float64)


def _signed_axes(T: int, seed: int) -> Tensor:
    """Keys of unit length in integers: an axis of either direction."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randint(K, (1, T, H), generator=generator)
    sign = 2.0 * torch.randint(2, (1, T, H, 1), generator=generator) - 1.0
    return sign.double() * F.one_hot(axis, K)


def _segments(T: int, borders: set[int]) -> Tensor:
    segments = torch.zeros(1, T, dtype=torch.long)
    for border in borders:
        segments[:, border:] += 1
    return segments


def _in_chunks(x_BTHX: Tensor, chunk: int) -> Tensor:
    padded = F.pad(x_BTHX, (0, 0, 0, 0, 0, -x_BTHX.shape[1] % chunk))
    return padded.unflatten(1, (-1, chunk)).flatten(0, 1).transpose(1, 2)


def _turned(x_BTHV: Tensor, angle: Tensor) -> Tensor:
    """Pairs of rows (f, f + F) turned against the angles, as one matrix per head."""
    turn = torch.zeros(*angle.shape[:-1], K, K, dtype=x_BTHV.dtype)
    for f in range(K // 2):
        g, cos, sin = f + K // 2, angle[..., f].cos().round(), angle[..., f].sin().round()
        turn[..., f, f], turn[..., f, g] = cos, sin
        turn[..., g, f], turn[..., g, g] = -sin, cos
    return turn @ x_BTHV


def _quarter_turns(T: int, seed: int) -> Tensor:
    return _integers(1, T, H, K // 2, seed=seed) * math.pi / 2


@settings(deadline=None, max_examples=40)
@given(T=st.integers(1, 40), chunk=st.integers(1, 20), borders=BORDERS, turns=st.booleans())
def test_delta_heads_on_integers(T: int, chunk: int, borders: set[int], turns: bool) -> None:
    """Write strengths 0, 1 and 2, on axes of the state, keep everything an integer."""
    segments, C = _segments(T, borders), min(chunk, T)
    q, v, k = _integers(1, T, H, K, seed=0), _integers(1, T, H, V, seed=1), _signed_axes(T, 2)
    strength = (_integers(1, T, H, 1, seed=3).abs() - 1.0).clamp(min=0.0)
    e, u = strength * k, strength * v
    angle = _quarter_turns(T, 4)
    state, expected = torch.zeros(1, H, K, V, dtype=torch.float64), []
    for t in range(T):
        if t > 0 and segments[0, t] != segments[0, t - 1]:
            state = torch.zeros_like(state)
        if turns:
            state = _turned(state, angle[:, t])
        erased = torch.einsum("bhk,bhkv->bhv", e[:, t], state)
        state = state + k[:, t, ..., None] * (u[:, t] - erased)[..., None, :]
        expected.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    vectors = [_in_chunks(i, C) for i in (q, k, e, u)]
    frames = chunk_turns(angle, C) if turns else None
    if frames is not None:
        vectors[:3] = [frames.turned(i) for i in vectors[:3]]
    documents = chunk_documents(segments, C)
    nothing = torch.zeros(1, T, H).double()
    y, final = delta(*vectors, nothing, documents, turns=frames)
    assert torch.equal(y.round(), torch.stack(expected, dim=1))
    assert torch.allclose(y, y.round())
    assert torch.equal(final.round(), state)


@settings(deadline=None, max_examples=20)
@given(T=st.integers(1, 40), chunk=st.integers(1, 20), borders=BORDERS)
def test_turning_recall_heads_on_integers(T: int, chunk: int, borders: set[int]) -> None:
    segments, C = _segments(T, borders), min(chunk, T)
    q, k, v = (_integers(1, T, H, width, seed=i) for i, width in enumerate((K, K, V)))
    angle = _quarter_turns(T, 4)
    state, expected = torch.zeros(1, H, K, V, dtype=torch.float64), []
    for t in range(T):
        if t > 0 and segments[0, t] != segments[0, t - 1]:
            state = torch.zeros_like(state)
        state = _turned(state, angle[:, t]) + k[:, t, ..., None] * v[:, t, :, None, :]
        expected.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    frames = chunk_turns(angle, C)
    q, k, v = (_in_chunks(i, C) for i in (q, k, v))
    documents, nothing = chunk_documents(segments, C), torch.zeros(1, T, H).double()
    y, final = recall(frames.turned(q), frames.turned(k), v, nothing, documents, turns=frames)
    assert torch.equal(y.round(), torch.stack(expected, dim=1))
    assert torch.equal(final.round(), state)


class _Inputs:
    """Random inputs of two rows, as the heads make them."""

    def __init__(self, T: int):
        torch.manual_seed(T)
        self.T = T
        self.q, self.k = (F.normalize(torch.randn(2, T, H, K).double(), dim=-1) for _ in range(2))
        self.v = torch.randn(2, T, H, V).double()
        self.strength = 2.0 * torch.rand(2, T, H, 1).double()
        self.erase = 2.0 * torch.rand(2, T, H, K).double()
        self.log_decay = -0.3 * torch.rand(2, T, H).double()
        self.angle = math.pi * torch.randn(2, T, H, K // 2).double().tanh()
        self.state = torch.randn(2, H, K, V).double()


def _run(rule: str, inputs: _Inputs, chunk: int, part: slice, state: Tensor) -> tuple[Tensor, ...]:
    q, k, v, erase, strength = (
        _in_chunks(i[:, part], chunk)
        for i in (inputs.q, inputs.k, inputs.v, inputs.erase, inputs.strength)
    )
    turns: Turns | None = chunk_turns(inputs.angle[:, part], chunk)
    assert turns is not None
    e, q, k = turns.turned(erase * k), turns.turned(q), turns.turned(k)
    carried = inputs.log_decay[:, part], None, state
    if rule == "delta":
        return delta(q, k, e, strength * v, *carried, turns=turns)
    return recall(q, k, v, *carried, turns=turns)


def _run_steps(rule: str, inputs: _Inputs) -> tuple[Tensor, Tensor]:
    state, outputs = inputs.state, []
    for t in range(inputs.T):
        q, k, v, erase, strength, log_decay, angle = (
            i[:, t]
            for i in (
                *(inputs.q, inputs.k, inputs.v, inputs.erase, inputs.strength),
                *(inputs.log_decay, inputs.angle),
            )
        )
        if rule == "delta":
            y, state = delta_step(q, k, erase * k, strength * v, log_decay, state, angle)
        else:
            y, state = recall_step(q, k, v, log_decay, state, angle)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("rule", ["delta", "decay"])
@pytest.mark.parametrize("T", [1, 7, 37])
def test_chunks_of_any_length_equal_steps(rule: str, T: int) -> None:
    inputs = _Inputs(T)
    expected = _run_steps(rule, inputs)
    for chunk in (1, 4, 7, 16, 17, 37, 64):
        found = _run(rule, inputs, chunk, slice(None), inputs.state)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rule", ["delta", "decay"])
def test_a_sequence_in_two_parts(rule: str) -> None:
    inputs = _Inputs(29)
    expected = _run(rule, inputs, 8, slice(None), inputs.state)
    for border in (1, 8, 13, 28):
        first, state = _run(rule, inputs, 8, slice(0, border), inputs.state)
        second, final = _run(rule, inputs, 8, slice(border, 29), state)
        torch.testing.assert_close((torch.cat([first, second], 1), final), expected)


def test_flips_do_not_fade_or_grow() -> None:
    """Strength 2 along one key is a reflection: 4,096 of them leave the state's length."""
    T, state = 4096, torch.randn(1, 1, K, V)
    k = F.normalize(torch.randn(1, T, 1, K), dim=-1)
    q, k = _in_chunks(k, 64), _in_chunks(k, 64)
    _, final = delta(q, k, 2.0 * k, torch.zeros(64, 1, 64, V), torch.zeros(1, T, 1), None, state)
    # float32 rounds each of 64 chunks
    torch.testing.assert_close(final.norm(), state.norm(), rtol=1e-5, atol=0.0)


def test_many_turns_keep_their_angle() -> None:
    """Angles are summed in chunks, and there in float64."""
    angle = torch.full((1, 8192, 1, 1), 3.0)
    turns = chunk_turns(angle, 8192)
    exact = torch.tensor(8192 * 3.0, dtype=torch.float64)
    end = torch.polar(torch.ones_like(exact), -exact)
    torch.testing.assert_close(turns.end_BJHF[0, 0, 0, 0], end.to(torch.complex64))


@pytest.mark.parametrize(
    "breaks", [lambda e: 0.0 * e, lambda e: e.roll(1, dims=2)], ids=["no erasure", "late erasure"]
)
def test_a_broken_erasure_is_found(breaks: Callable[[Tensor], Tensor]) -> None:
    inputs = _Inputs(12)
    q, k, v, strength = (_in_chunks(i, 4) for i in (inputs.q, inputs.k, inputs.v, inputs.strength))
    carried = inputs.log_decay, None, inputs.state
    e, u = strength * k, strength * v
    whole, broken = (delta(q, k, i, u, *carried)[0] for i in (e, breaks(e)))
    assert (whole - broken).abs().max() > 1e-2


def test_every_pair_of_strengths_composes() -> None:
    """Two writes to one key: the second finds (1 - b) of what the first left."""
    for first, second in itertools.product((0.0, 0.5, 1.0, 2.0), repeat=2):
        k = torch.zeros(1, 1, 2, K).double()
        k[..., 0] = 1.0
        strength = torch.tensor([first, second]).double()[:, None]
        v = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0]]).double()
        y, _ = delta(k, k, strength * k, (strength * v)[None, None], torch.zeros(1, 2, 1).double())
        torch.testing.assert_close(y[0, 1, 0], (1.0 - second) * first * v[0] + second * v[1])
