"""Which mixer a layer has, by its name in the configuration."""

from typing import Any

from spectral.bidirectional import BidirectionalMixer
from spectral.config import ModelConfig
from spectral.fft_encoder import FFTEncoderMixer
from spectral.fft_mixer import FFTMixer
from spectral.mixer import SpectralMixer
from spectral.projected import ProjectedMixer
from spectral.wavelet_mixer import WaveletEncoderMixer, WaveletMixer

# what a mixer remembers is known to itself only: MixerState or ProjectedState
State = Any


def build_mixer(config: ModelConfig, layer: int) -> SpectralMixer | ProjectedMixer:
    """The mixer of a layer; `config.mixers` repeats over the layers."""
    kind = config.mixers[layer % len(config.mixers)]
    if kind == "fft":
        return FFTMixer(config) if config.causal else FFTEncoderMixer(config)
    if kind == "wavelet":
        return WaveletMixer(config) if config.causal else WaveletEncoderMixer(config)
    if config.causal:
        return SpectralMixer(config, layer)
    return BidirectionalMixer(config, layer)
