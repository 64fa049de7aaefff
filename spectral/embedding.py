"""Token embeddings, which are also the output layer (tied).

Shape letters: V vocabulary, D channels, S sinusoids.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TableEmbedding(nn.Embedding):
    """A free vector per token.

    Attributes:
        rounds_weight: Whether other ranks may be sent the weight rounded to bfloat16.
    """

    rounds_weight = True

    def reset_parameters(self) -> None:
        """Initialise with small numbers: the output probabilities begin close to uniform."""
        nn.init.normal_(self.weight, std=0.02)

    def table(self) -> Tensor:
        """All vectors [V, D]."""
        return self.weight


class HarmonicEmbedding(nn.Module):
    """Token vectors that are sums of 16 sinusoids over the channels.

        E[v, d] = sum_s amplitude[v, s] * sin(2 pi frequency[v, s] d / D + phase[v, s])

    48 numbers per token for any D. The table costs O(V S D) time each time it is made, and O(V D)
    memory: sinusoids are added one by one and recomputed in the backward pass.

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
        """Initialise with the magnitude of `TableEmbedding` and frequencies up to Nyquist's."""
        with torch.no_grad():
            self.amplitude.normal_(std=0.02 * math.sqrt(2.0 / self.NUM_SINUSOIDS))
            self.frequency.uniform_(0.0, self.dim / 2)
            self.phase.uniform_(0.0, 2.0 * math.pi)

    @torch.no_grad()
    def resized(self, vocab_size: int) -> "HarmonicEmbedding":
        """A copy with another number of ids; those that are new are initialised."""
        other = HarmonicEmbedding(vocab_size, self.dim).to(self.phase.device)
        kept = min(vocab_size, self.phase.shape[0])
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            theirs[:kept] = mine[:kept]
            theirs.requires_grad_(mine.requires_grad)
        return other

    def table(self) -> Tensor:
        """All vectors [V, D]."""
        return self._vectors(self.amplitude, self.frequency, self.phase)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of token ids: [...] -> [..., D]."""
        return self._vectors(self.amplitude[tokens], self.frequency[tokens], self.phase[tokens])

    def _vectors(self, amplitude_S: Tensor, frequency_S: Tensor, phase_S: Tensor) -> Tensor:
        place_D = torch.arange(self.dim, device=phase_S.device, dtype=phase_S.dtype) / self.dim
        vectors_D = place_D.new_zeros(*phase_S.shape[:-1], self.dim)
        columns = (i.unbind(-1) for i in (amplitude_S, frequency_S, phase_S))
        for sinusoid in zip(*columns, strict=True):
            vectors_D = vectors_D + checkpoint(_sinusoid, *sinusoid, place_D, use_reentrant=False)
        return vectors_D


def _sinusoid(amplitude: Tensor, frequency: Tensor, phase: Tensor, place_D: Tensor) -> Tensor:
    angle_D = 2.0 * math.pi * frequency[..., None] * place_D + phase[..., None]
    return amplitude[..., None] * angle_D.sin()
