"""A `SpectralLM` as a transformers model, without copying its parameters."""

import torch

from data_pipeline.tokenizer import Tokenizer
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from spectral.lm import SpectralLM


def config_of(model: SpectralLM, tokenizer: Tokenizer) -> ResonanceConfig:
    """The exported configuration of a model and its tokenizer."""
    return ResonanceConfig(
        **model.config.model_dump(),
        tokenizer_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        architectures=[ResonanceForCausalLM.__name__],
        auto_map={
            "AutoConfig": "configuration_resonance.ResonanceConfig",
            "AutoModel": "resonance_model.ResonanceModel",
            "AutoModelForCausalLM": "modeling_resonance.ResonanceForCausalLM",
        },
    )


def wrap(model: SpectralLM, tokenizer: Tokenizer) -> ResonanceForCausalLM:
    """A model that shares its parameters, under transformers' interface and in evaluation mode."""
    with torch.device("meta"):
        wrapped = ResonanceForCausalLM(config_of(model, tokenizer))
    wrapped.model.adopt(model)
    wrapped.tie_weights()
    return wrapped.eval()
