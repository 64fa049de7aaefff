"""Configurations in which every part of a model is on, for tests of layouts."""

from spectral.config import ModelConfig

GATES: dict[str, dict[str, object]] = {
    "gates": {
        "bands": True,
        "soft_threshold": True,
        "phase_functions": True,
        "cross_head": True,
        "magnitude_mixing": True,
        "residual": True,
        "selection": True,
        "frequency_dropout": 0.1,
        "entropy_weight": 0.1,
        "consistency_weight": 0.1,
    }
}
RECALL: dict[str, object] = {
    "recall_rule": "delta",
    "recall_erase": "channel",
    "recall_phase": "data",
    "recall_bias": True,
}
EVERYTHING = GATES | {"embedding": "harmonic", "feed_forward": "frequency"}


def config(**changes: object) -> ModelConfig:
    """A small model whose filters hardly fade, with a vocabulary that 2 ranks must pad."""
    values: dict[str, object] = {
        "vocab_size": 51,
        "dim": 32,
        "num_layers": 2,
        "num_heads": 4,
        "conv_heads": (2,),
        "num_modes": 8,
        "conv_chunk": 8,
        "recall_chunk": 4,
        "ffn_dim": 24,
        "fft": {"chunk": 16},
        "wavelet": {"levels": 2},
        "max_time_constant": 1e6,
    }
    return ModelConfig.model_validate(values | changes)
