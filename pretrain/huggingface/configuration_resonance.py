"""Configuration of an exported Resonance model: the fields of `spectral.config.ModelConfig`."""

from typing import Any, ClassVar

from transformers import PretrainedConfig


class Table(dict[str, Any]):
    """A nested table of config.json, whose keys are attributes too."""

    def __getattr__(self, key: str) -> Any:
        """The value of a key.

        Raises:
            AttributeError: There is no such key.
        """
        if key not in self:
            raise AttributeError(key)
        return self[key]


class ResonanceConfig(PretrainedConfig):
    """Architecture of a spectral language model.

    Every key of Resonance's `[model]` table is an attribute of the same name; config.json holds
    them all. Ids from `tokenizer_size` to `vocab_size` stand for nothing and are never generated.
    """

    model_type = "resonance"
    # names that transformers and its tools read
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "num_layers",
    }

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("tie_word_embeddings", True)
        if "vocab_size" in kwargs:
            kwargs.setdefault("tokenizer_size", kwargs["vocab_size"])
        super().__init__(
            **{
                key: Table(value) if isinstance(value, dict) else value
                for key, value in kwargs.items()
            }
        )

    def has_output_weight(self) -> bool:
        """Whether the embedding has its weight as a parameter, which an output layer can share."""
        polar = getattr(self, "polar", None)
        return self.embedding != "harmonic" and (
            not polar or "embedding.weight" not in polar["names"]
        )
