"""Noise cannot be predicted: a model that beats ln V on it has seen its future."""

import math

import pytest
import torch

from spectral.config import ModelConfig
from spectral.lm import SpectralLM

VOCAB, BATCH, LENGTH, STEPS, LAST = 32, 8, 64, 500, 100


@pytest.mark.parametrize("conv_heads", [(4,), (0,), (2,)])
def test_no_variant_learns_to_predict_noise(conv_heads: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=VOCAB,
        dim=32,
        num_layers=2,
        num_heads=4,
        conv_heads=conv_heads,
        num_modes=4,
        conv_chunk=16,
        recall_chunk=16,
        ffn_dim=48,
    )
    model = SpectralLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        tokens = torch.randint(VOCAB, (BATCH, LENGTH + 1))
        loss = model(tokens[:, :-1], labels_BT=tokens[:, 1:]).nll / (BATCH * LENGTH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    mean = sum(losses[-LAST:]) / LAST
    # the mean of LAST * BATCH * LENGTH losses whose spread is below 1 nat: five standard errors
    assert mean > math.log(VOCAB) - 5 / math.sqrt(LAST * BATCH * LENGTH)
