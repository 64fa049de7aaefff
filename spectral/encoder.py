"""`SpectralEncoder`: hidden states and pooled vectors of texts, read from both sides.

Shape letters: B batch, T time (tokens), D channels, S documents of a row.
"""

from torch import Tensor

from spectral.input_checks import check_tokens
from spectral.lm import SpectralLM
from spectral.modules.pooling import pool_documents


class SpectralEncoder(SpectralLM):
    """A model whose hidden states are its output; trained to predict masked tokens.

    Its logits and its loss are those of `SpectralLM`: of the token at each position, if it is
    bidirectional.
    """

    def encode(self, tokens_BT: Tensor, segment_ids_BT: Tensor | None = None) -> Tensor:
        """Normalised hidden states x_BTD of every token; arguments as of `forward`."""
        check_tokens(tokens_BT, 2)
        num_tokens = tokens_BT.shape[1]
        return self.hidden(self.embed(tokens_BT), segment_ids_BT, num_tokens=num_tokens)[0]

    def pooled(self, tokens_BT: Tensor, segment_ids_BT: Tensor | None = None) -> Tensor:
        """A vector of each document, pooled as configured: pooled_BSD, zero where there is none."""
        x_BTD = self.encode(tokens_BT, segment_ids_BT)
        return pool_documents(x_BTD, segment_ids_BT, self.config.pooling, self.layout.span)
