"""Token embeddings, each also the output layer (tied).

Shape letters: V vocabulary, D channels, S sinusoids.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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

    48 numbers per token whatever D is; the table costs O(V S D) time each time it is made, and
    O(V D) memory: sinusoids are added one by one and computed again in the backward pass.

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
        vectors_D = place_D.new_zeros(*phase_S.shape[:-1], self.dim)
        for one in zip(*(i.unbind(-1) for i in (amplitude_S, frequency_S, phase_S)), strict=True):
            vectors_D = vectors_D + checkpoint(_sinusoid, *one, place_D, use_reentrant=False)
        return vectors_D


def _sinusoid(amplitude: Tensor, frequency: Tensor, phase: Tensor, place_D: Tensor) -> Tensor:
    angle_D = 2.0 * math.pi * frequency[..., None] * place_D + phase[..., None]
    return amplitude[..., None] * angle_D.sin()
