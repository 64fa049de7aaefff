"""Configuration of an exported Resonance model: the fields of `spectral.config.ModelConfig`."""

from typing import Any

from transformers import PretrainedConfig


class ResonanceConfig(PretrainedConfig):
    """Architecture of a spectral language model.

    Every field of Resonance's `[model]` table is an attribute of the same name.
    """

    model_type = "resonance"

    def __init__(self, **kwargs: Any):
        # transformers builds an empty configuration to find out its defaults
        for key, default in _DEFAULTS.items():
            value = kwargs.pop(key, default)
            setattr(self, key, tuple(value) if isinstance(value, list) else value)
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)
        # names that transformers and its tools look for
        self.hidden_size = self.dim
        self.num_hidden_layers = self.num_layers


_DEFAULTS: dict[str, Any] = {
    "vocab_size": 4096,
    "dim": 256,
    "num_layers": 6,
    "num_heads": 4,
    "conv_heads": (2,),
    "num_modes": 16,
    "conv_chunk": 256,
    "recall_chunk": 64,
    "short_conv": 4,
    "ffn_dim": 688,
    "max_time_constant": 204_800.0,
    "rotary_base": 10_000.0,
    "norm_eps": 1e-6,
}
