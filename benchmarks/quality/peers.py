"""Other attention-free mixers in our block: norms, gated feed-forward and tied embedding are equal.

Mixers of transformers are those of its models, initialised as there; RWKV is version 4, whose loop
over tokens is slow on a CPU, and its token shift is part of the mixer. The feed-forward is as wide
as equal numbers of parameters allow.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from benchmarks.quality.mixers_of_papers import Hyena, Retention
from benchmarks.quality.models import SIZES, Size, Spectral, non_embedding
from spectral.mixers.context import SequenceContext


class _Mixer(nn.Module):
    """A mixer behind the interface of ours, without a state."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: None = None
    ) -> tuple[Tensor, None, None]:
        """(y_BTD, no state, no losses)."""
        del context, state
        y = self.mixer(x_BTD)
        return y[0] if isinstance(y, tuple) else y, None, None


def _mamba(size: Size, _length: int) -> Iterable[nn.Module]:
    from transformers import MambaConfig, MambaModel

    config = MambaConfig(vocab_size=1, hidden_size=size.dim, num_hidden_layers=size.num_layers)
    return [block.mixer for block in MambaModel(config).layers]


def _mamba2(size: Size, _length: int) -> Iterable[nn.Module]:
    from transformers import Mamba2Config, Mamba2Model

    config = Mamba2Config(
        vocab_size=2,
        hidden_size=size.dim,
        num_hidden_layers=size.num_layers,
        num_heads=2 * size.num_heads,
        head_dim=size.dim // size.num_heads,
        state_size=2 * size.dim // size.num_heads,
        n_groups=1,
        chunk_size=64,
        pad_token_id=0,
        eos_token_id=0,
    )
    return [block.mixer for block in Mamba2Model(config).layers]


def _gated_deltanet(size: Size, _length: int) -> Iterable[nn.Module]:
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextModel

    width = size.dim // size.num_heads
    config = Qwen3_5TextConfig(
        vocab_size=2,
        hidden_size=size.dim,
        intermediate_size=8,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_heads,
        linear_key_head_dim=width,
        linear_value_head_dim=width,
        linear_num_key_heads=size.num_heads,
        linear_num_value_heads=size.num_heads,
        layer_types=["linear_attention"] * size.num_layers,
        pad_token_id=0,
    )
    return [layer.linear_attn for layer in Qwen3_5TextModel(config).layers]


def _rwkv4(size: Size, length: int) -> Iterable[nn.Module]:
    from transformers import RwkvConfig, RwkvModel

    config = RwkvConfig(
        vocab_size=2,
        context_length=length,
        hidden_size=size.dim,
        intermediate_size=8,
        num_hidden_layers=size.num_layers,
    )
    return [block.attention for block in RwkvModel(config).blocks]


def _xlstm(size: Size, length: int) -> Iterable[nn.Module]:
    from transformers import xLSTMConfig, xLSTMModel

    config = xLSTMConfig(
        vocab_size=2,
        hidden_size=size.dim,
        num_hidden_layers=size.num_layers,
        num_heads=size.num_heads,
        mode="train",
        # sequences are whole chunks
        chunk_size=min(64, length),
        eos_token_id=1,
        autocast_kernel_dtype="float32",
    )
    return [block.mlstm_layer for block in xLSTMModel(config).blocks]


def _retnet(size: Size, _length: int) -> Iterable[nn.Module]:
    return [Retention(size.dim, size.num_heads) for _ in range(size.num_layers)]


def _hyena(size: Size, length: int) -> Iterable[nn.Module]:
    return [Hyena(size.dim, length) for _ in range(size.num_layers)]


PEERS: dict[str, Callable[[Size, int], Iterable[nn.Module]]] = {
    "mamba": _mamba,
    "mamba-2": _mamba2,
    "gated deltanet": _gated_deltanet,
    "rwkv-4": _rwkv4,
    "xlstm": _xlstm,
    "retnet": _retnet,
    "hyena": _hyena,
}


def build_peer(kind: str, size: str, vocab_size: int, length: int, expected: int) -> Spectral:
    """Our model with another mixer in each block.

    Args:
        kind: Name in `PEERS`.
        size: Name in `SIZES`.
        vocab_size: Rows of the embedding.
        length: Tokens per window.
        expected: Parameters without the embedding.

    Raises:
        ValueError: The mixers alone have more parameters.
    """
    shape = SIZES[size]
    mixers = list(PEERS[kind](shape, length))
    spent = sum(p.numel() for mixer in mixers for p in mixer.parameters())
    # the last norm, and two in each block
    spent += (2 * shape.num_layers + 1) * shape.dim
    ffn_dim = round((expected - spent) / (3 * shape.dim * shape.num_layers))
    if ffn_dim < 1:
        raise ValueError(f"{kind} of size {size}: its mixers have {spent} of {expected} parameters")
    model = Spectral(shape._replace(ffn_dim=ffn_dim), vocab_size, length, {})
    for block, mixer in zip(model.model.blocks, mixers, strict=True):
        block.mixer = _Mixer(mixer)
    actual = non_embedding(model)
    if abs(actual / expected - 1.0) > 0.02:
        raise ValueError(f"{kind} of size {size}: expected {expected} parameters, got {actual}")
    return model
