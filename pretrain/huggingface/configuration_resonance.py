"""Configuration of an exported Resonance model: the fields of `spectral.config.ModelConfig`."""

from typing import Any, ClassVar

from transformers import PretrainedConfig


class ResonanceConfig(PretrainedConfig):
    """Architecture of a spectral language model.

    Every key of Resonance's `[model]` table is an attribute of the same name; config.json holds
    them all.
    """

    model_type = "resonance"
    # names that transformers and its tools read
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "num_layers",
    }

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)
