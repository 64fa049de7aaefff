"""The mixer of each layer, by its name in the configuration."""

from spectral.config import ModelConfig
from spectral.mixers.base import SequenceMixer
from spectral.mixers.fft import FFTMixer
from spectral.mixers.fft_bidirectional import FFTEncoderMixer
from spectral.mixers.heads import HeadsMixer
from spectral.mixers.heads_bidirectional import BidirectionalMixer
from spectral.mixers.wavelet import WaveletMixer
from spectral.mixers.wavelet_bidirectional import WaveletEncoderMixer

# name in `mixers` -> causal and bidirectional form
MIXERS = {
    "heads": (HeadsMixer, BidirectionalMixer),
    "fft": (FFTMixer, FFTEncoderMixer),
    "wavelet": (WaveletMixer, WaveletEncoderMixer),
}


def build_mixer(config: ModelConfig, layer: int) -> SequenceMixer:
    """The mixer of a layer; `config.mixers` repeats over the layers."""
    causal, bidirectional = MIXERS[config.mixers[layer % len(config.mixers)]]
    return (causal if config.causal else bidirectional)(config, layer)
