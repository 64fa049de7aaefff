"""Harmonic embeddings."""

import math

import pytest
import torch

from spectral.embedding import HarmonicEmbedding


def test_a_harmonic_vector_is_a_sum_of_sinusoids() -> None:
    torch.manual_seed(0)
    embedding = HarmonicEmbedding(vocab_size=5, dim=12).double()
    vector = embedding(torch.tensor([3]))[0]
    for d in range(12):
        rows = (embedding.amplitude, embedding.frequency, embedding.phase)
        terms = [
            a * math.sin(2 * math.pi * f * d / 12 + p)
            for a, f, p in zip(*(row[3].tolist() for row in rows), strict=True)
        ]
        assert vector[d].item() == pytest.approx(sum(terms))
    torch.testing.assert_close(embedding.table()[3], vector)
