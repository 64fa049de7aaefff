"""Noise cannot be predicted: a model that beats ln V on it has seen its future."""

import math

import pytest
import torch

from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from spectral.mixers.build import MIXERS
from tests.unit.spectral.gates.test_spectral_gate import SETTINGS

VOCAB, BATCH, LENGTH, STEPS, LAST = 32, 8, 64, 500, 100


GATES = SETTINGS["everything"]
HEADS: dict[str, dict[str, object]] = {
    "convolution": {"conv_heads": (4,)},
    "recall": {"conv_heads": (0,)},
}
LONG: dict[str, dict[str, object]] = {
    "mixed": {"conv_heads": (2,)},
    "by turns": {},
    **{name: {"mixers": (name,)} for name in MIXERS if name != "heads"},
    "gates": {**GATES},
    "together": {
        "mixers": tuple(name for name in MIXERS if name != "heads"),
        "feed_forward": "frequency",
        **GATES,
    },
}


@pytest.mark.parametrize(
    "changes",
    [
        *(pytest.param(changes, id=name) for name, changes in HEADS.items()),
        *(pytest.param(changes, id=name, marks=pytest.mark.slow) for name, changes in LONG.items()),
    ],
)
def test_no_variant_learns_to_predict_noise(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "vocab_size": VOCAB,
        "dim": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_modes": 4,
        "conv_chunk": 16,
        "recall_chunk": 16,
        "fft": {"chunk": 16},
        "ffn_dim": 48,
    }
    config = ModelConfig.model_validate(values | changes)
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
