"""Token embeddings, each also the output layer (tied).

Shape letters: V vocabulary, D channels, S sinusoids.
"""

import math

import torch
from torch import Tensor, nn


class TableEmbedding(nn.Embedding):
    """One free vector per token."""

    def reset_parameters(self) -> None:
        """Small: the output layer's logits begin close to uniform."""
        nn.init.normal_(self.weight, std=0.02)

    def table(self) -> Tensor:
        """All vectors [V, D]."""
        return self.weight


class HarmonicEmbedding(nn.Module):
    """A token's vector is a sum of 16 sinusoids over the channels: amplitude, frequency, phase.

        E[v, d] = sum_s amplitude[v, s] * sin(2 pi frequency[v, s] d / D + phase[v, s])

    48 numbers per token whatever D is; the table costs O(V S D) each time it is made.

    Source: the harmonic embeddings of SpectralLLM.
    """

    NUM_SINUSOIDS = 16

    def __init__(self, vocab_size: int, dim: int):
        super().__init__()
        self.dim = dim
        shape = (vocab_size, self.NUM_SINUSOIDS)
        self.amplitude = nn.Parameter(torch.empty(shape))
        self.frequency = nn.Parameter(torch.empty(shape))
        self.phase = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Vectors of the size of `TableEmbedding`'s, frequencies spread up to Nyquist's."""
        with torch.no_grad():
            self.amplitude.normal_(std=0.02 * math.sqrt(2.0 / self.NUM_SINUSOIDS))
            self.frequency.uniform_(0.0, self.dim / 2)
            self.phase.uniform_(0.0, 2.0 * math.pi)

    def table(self) -> Tensor:
        """All vectors [V, D]."""
        return self._vectors(self.amplitude, self.frequency, self.phase)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of token ids: [...] -> [..., D]."""
        return self._vectors(self.amplitude[tokens], self.frequency[tokens], self.phase[tokens])

    def _vectors(self, amplitude_S: Tensor, frequency_S: Tensor, phase_S: Tensor) -> Tensor:
        place_D = torch.arange(self.dim, device=phase_S.device, dtype=phase_S.dtype) / self.dim
        angle_SD = 2.0 * math.pi * frequency_S[..., None] * place_D + phase_S[..., None]
        return (amplitude_S[..., None] * angle_SD.sin()).sum(-2)
