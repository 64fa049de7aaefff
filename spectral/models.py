"""The model of a configuration."""

from spectral.classifier import SpectralClassifier
from spectral.config import ModelConfig
from spectral.encoder import SpectralEncoder
from spectral.lm import SpectralLM
from spectral.seq2seq import SpectralSeq2Seq


def model_class(config: ModelConfig) -> type[SpectralLM]:
    """The class of a configuration's model."""
    if config.source_layers:
        return SpectralSeq2Seq
    if config.classes:
        return SpectralClassifier
    return SpectralLM if config.causal else SpectralEncoder
