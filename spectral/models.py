"""The model of a configuration."""

from spectral.classifier import SpectralClassifier
from spectral.config import ModelConfig
from spectral.encoder import SpectralEncoder
from spectral.lm import SpectralLM


def model_class(config: ModelConfig) -> type[SpectralLM]:
    """The class of a configuration's model."""
    if config.classes:
        return SpectralClassifier
    return SpectralLM if config.causal else SpectralEncoder
