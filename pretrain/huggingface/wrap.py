"""A model of ours as one of transformers', without copying its parameters."""

import torch

from data_pipeline.tokenizer import Tokenizer
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from spectral.lm import SpectralLM


def config_of(model: SpectralLM, tokenizer: Tokenizer) -> ResonanceConfig:
    """The configuration that is exported with a model."""
    return ResonanceConfig(
        **model.config.model_dump(),
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        architectures=[ResonanceForCausalLM.__name__],
        auto_map={
            "AutoConfig": "configuration_resonance.ResonanceConfig",
            "AutoModelForCausalLM": "modeling_resonance.ResonanceForCausalLM",
        },
    )


def wrap(model: SpectralLM, tokenizer: Tokenizer) -> ResonanceForCausalLM:
    """The same parameters under transformers' interface, in evaluation mode."""
    with torch.device("meta"):
        found = ResonanceForCausalLM(config_of(model, tokenizer))
    found.model = model
    return found.eval()
