"""Which mixer a layer has, by its name in the configuration."""

from typing import Any

from spectral.config import ModelConfig
from spectral.mixers.base import SequenceMixer
from spectral.mixers.fft import FFTMixer
from spectral.mixers.fft_bidirectional import FFTEncoderMixer
from spectral.mixers.heads import HeadsMixer
from spectral.mixers.heads_bidirectional import BidirectionalMixer
from spectral.mixers.wavelet import WaveletMixer
from spectral.mixers.wavelet_bidirectional import WaveletEncoderMixer

# what a mixer remembers is known to itself only: MixerState or SequenceState
State = Any


def build_mixer(config: ModelConfig, layer: int) -> HeadsMixer | SequenceMixer:
    """The mixer of a layer; `config.mixers` repeats over the layers."""
    kind = config.mixers[layer % len(config.mixers)]
    if kind == "fft":
        return FFTMixer(config) if config.causal else FFTEncoderMixer(config)
    if kind == "wavelet":
        return WaveletMixer(config) if config.causal else WaveletEncoderMixer(config)
    if config.causal:
        return HeadsMixer(config, layer)
    return BidirectionalMixer(config, layer)
