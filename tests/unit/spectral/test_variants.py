"""Whole models with other embeddings and feed-forwards."""

import pytest
import torch

from data_pipeline.tokenizer import load_tokenizer
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
)


@pytest.mark.parametrize(
    "changes",
    [{"embedding": "harmonic"}, {"feed_forward": "frequency"}],
    ids=lambda changes: "-".join(changes),
)
def test_variants_stay_causal_isolated_and_recurrent(changes: dict[str, object]) -> None:
    config = small_config(**changes)
    check_causal(small_model(config))
    check_isolated(small_model(config))
    check_recurrent(small_model(config))


def test_a_byte_model_needs_no_tokenizer_file() -> None:
    tokenizer = load_tokenizer("byte")
    model = SpectralLM(ModelConfig(vocab_size=tokenizer.vocab_size, dim=16, num_layers=1))
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("naïve")]])
    assert model(ids).shape == (1, 7, 259)
