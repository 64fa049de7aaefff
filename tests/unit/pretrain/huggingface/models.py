"""Small models of every feature set under transformers' interface."""

from typing import Any

import torch

from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from spectral.config import ModelConfig

FEATURES: dict[str, dict[str, Any]] = {
    "heads": {},
    "gates": {"gates": {"bands": True, "selection": True}},
    "mixers": {"mixers": ("fft", "wavelet"), "fft": {"chunk": 16}, "feed_forward": "experts"},
    "harmonic": {"embedding": "harmonic", "feed_forward": "frequency"},
}
SIZES = {"vocab_size": 40, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
CHUNKS = {"num_modes": 4, "conv_chunk": 8, "recall_chunk": 8}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def small_config(**changes: Any) -> ModelConfig:
    """A tiny model whose sequences of 20 tokens have several chunks."""
    return ModelConfig.model_validate(SIZES | CHUNKS | changes)


def small_causal_lm(**changes: Any) -> ResonanceForCausalLM:
    """A model that no part of is at its initial value, where gates do nothing."""
    torch.manual_seed(0)
    config = ResonanceConfig(**small_config(**changes).model_dump(), **TOKENS)
    model = ResonanceForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def ids(length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids [rows, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 40, (rows, length), generator=generator)
