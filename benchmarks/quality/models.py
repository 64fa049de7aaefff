"""Both models of the comparison, with equal numbers of parameters.

Shape letters: B batch, T time (tokens), V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from kernels.linear_cross_entropy.op import linear_cross_entropy
from spectral.config import ModelConfig
from spectral.layout import Layout
from spectral.lm import SpectralLM


class Size(NamedTuple):
    """A size of model: 'small' is about 1.5M non-embedding parameters, 'large' about 6M."""

    dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int


SIZES = {
    "mini": Size(32, 2, 2, 64),
    "mqar": Size(64, 2, 2, 128),
    "small": Size(128, 6, 4, 400),
    "large": Size(256, 7, 4, 672),
}


class Spectral(nn.Module):
    """A `SpectralLM` behind the benchmark's interface.

    Args:
        size: Its dimensions.
        vocab_size: V.
        length: Tokens per window.
        changes: Values of `ModelConfig` besides the plain model's, which has both kinds of heads
            in every layer; `conv_heads` of 4 heads, whatever the size has.
    """

    def __init__(self, size: Size, vocab_size: int, length: int, changes: dict[str, object]):
        super().__init__()
        values: dict[str, Any] = {
            "vocab_size": vocab_size,
            "dim": size.dim,
            "num_layers": size.num_layers,
            "num_heads": size.num_heads,
            "conv_heads": (2,),
            "ffn_dim": size.ffn_dim,
            "max_time_constant": float(length),
        } | changes
        values["conv_heads"] = [heads * size.num_heads // 4 for heads in values["conv_heads"]]
        self.model = SpectralLM(ModelConfig.model_validate(values))
        self.model.layout = Layout(cross_entropy=labelled_cross_entropy)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        logits: Tensor = self.model(tokens_BT)
        return logits

    def loss(self, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """The objective: mean loss of labels that are not ignored, and auxiliary losses."""
        output = self.model(tokens_BT, labels_BT=labels_BT)
        return output.nll / (labels_BT >= 0).sum() + output.auxiliary


class Transformer(nn.Module):
    """transformers' Llama: RoPE, SwiGLU, RMSNorm, scaled_dot_product_attention, tied embeddings."""

    def __init__(self, size: Size, vocab_size: int, length: int, num_parameters: int):
        super().__init__()
        per_layer = num_parameters / size.num_layers - 4 * size.dim**2
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=size.dim,
            intermediate_size=round(per_layer / (3 * size.dim)),
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            max_position_embeddings=length,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = LlamaForCausalLM(config)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        logits: Tensor = self.model(tokens_BT).logits
        return logits

    def loss(self, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean loss of labels that are not ignored."""
        x_BTD = self.model.model(tokens_BT).last_hidden_state
        table = self.model.get_output_embeddings().weight
        nll = labelled_cross_entropy(x_BTD.flatten(0, 1), table, labels_BT.flatten())
        return nll / (labels_BT >= 0).sum()


def labelled_cross_entropy(x_ND: Tensor, table_VD: Tensor, labels_N: Tensor) -> Tensor:
    """Summed loss; computes logits only for labels that are not ignored, few in recall."""
    labelled_N = labels_N >= 0
    return linear_cross_entropy(x_ND[labelled_N], table_VD, labels_N[labelled_N])


def non_embedding(model: nn.Module) -> int:
    """Parameters without the embedding, which is the output layer too."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)


def build(
    kind: str, size: str, vocab_size: int, length: int, changes: dict[str, object], seed: int
) -> Spectral | Transformer:
    """A model of a kind, initialised from the seed.

    Args:
        kind: 'spectral', 'transformer' or a name in `peers.PEERS`.
        size: Name in `SIZES`.
        vocab_size: Rows of the embedding.
        length: Tokens per window.
        changes: Of the plain spectral model; others get as many parameters as that has.
        seed: Seed of the initial parameters.

    Raises:
        ValueError: Kinds would differ by more than 2% of their parameters.
    """
    torch.manual_seed(seed)
    spectral = Spectral(SIZES[size], vocab_size, length, changes)
    if kind == "spectral":
        return spectral
    expected = non_embedding(spectral)
    torch.manual_seed(seed)
    if kind != "transformer":
        from benchmarks.quality.peers import build_peer

        return build_peer(kind, size, vocab_size, length, expected)
    transformer = Transformer(SIZES[size], vocab_size, length, expected)
    actual = non_embedding(transformer)
    if abs(actual / expected - 1.0) > 0.02:
        raise ValueError(
            f"transformer of size {size}: expected {expected} parameters within 2%, got {actual}"
        )
    return transformer
