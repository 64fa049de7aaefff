"""Recall heads and the short convolution against their definitions, exactly, on integers."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectral.modules.recall import recall
from spectral.modules.short_conv import ShortConv
from spectral.sequence.documents import chunk_documents


def _integers(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator, dtype=torch.float64)


def _segments(T: int, borders: set[int]) -> Tensor:
    segments = torch.zeros(1, T, dtype=torch.long)
    for border in borders:
        segments[:, border:] += 1
    return segments


BORDERS = st.sets(st.integers(1, 40), max_size=6)


@settings(deadline=None, max_examples=40)
@given(T=st.integers(1, 40), chunk=st.integers(1, 20), borders=BORDERS)
def test_recall_heads(T: int, chunk: int, borders: set[int]) -> None:
    """Without decay, y_t is the sum of (q_t k_s) v_s over the document's tokens up to t."""
    segments, H, C = _segments(T, borders), 2, min(chunk, T)
    q, k, v = (_integers(1, T, H, width, seed=i) for i, width in enumerate((3, 3, 2)))
    seen = (segments[:, :, None] == segments[:, None]).tril()
    expected = torch.einsum("bthk,bshk,bts,bshv->bthv", q, k, seen.double(), v)
    in_chunks = [
        F.pad(x, (0, 0, 0, 0, 0, -T % C)).unflatten(1, (-1, C)).flatten(0, 1).transpose(1, 2)
        for x in (q, k, v)
    ]
    documents = chunk_documents(segments, C)
    found, _ = recall(*in_chunks, torch.zeros(1, T, H).double(), documents)
    assert torch.equal(found.round(), expected)
    assert torch.allclose(found, expected)


@settings(deadline=None, max_examples=40)
@given(T=st.integers(1, 40), width=st.integers(1, 6), borders=BORDERS)
def test_short_convolution(T: int, width: int, borders: set[int]) -> None:
    segments, x = _segments(T, borders), _integers(1, T, 3, seed=0)
    module = ShortConv(3, width).double()
    with torch.no_grad():
        module.taps.copy_(_integers(width, 3, seed=1))
    expected = torch.zeros_like(x)
    for t in range(T):
        for lag in range(min(width, t + 1)):
            if segments[0, t - lag] == segments[0, t]:
                expected[0, t] += module.taps[lag].detach() * x[0, t - lag]
    assert torch.equal(module(x, segments)[0], expected)
