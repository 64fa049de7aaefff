"""Which mixer a layer has, by its name in the configuration."""

from typing import Any

from spectral.config import ModelConfig
from spectral.fft_mixer import FFTMixer
from spectral.mixer import SpectralMixer

Mixer = SpectralMixer | FFTMixer
# what a mixer remembers is known to itself only: MixerState or ProjectedState
State = Any


def build_mixer(config: ModelConfig, layer: int) -> Mixer:
    """The mixer of a layer; `config.mixers` repeats over the layers."""
    kind = config.mixers[layer % len(config.mixers)]
    if kind == "fft":
        return FFTMixer(config)
    return SpectralMixer(config, layer)
