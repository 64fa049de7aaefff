"""Every key of a model changes what the model computes, where it says that it does."""

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from spectral.config import ModelConfig
from spectral.models import model_class
from tests.unit.spectral.causality.checks import small_config

TOKENS = torch.randint(40, (1, 33), generator=torch.Generator().manual_seed(1))
FFT, WAVELET = {"mixers": ("fft",), "fft": {"chunk": 8}}, {"mixers": ("wavelet",)}
GATES = {name: {"gates": {name: True}} for name in ("bands", "selection")}
ENCODER = FFT | {"causal": False}
# key -> (keys with which it has an effect, its other value)
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "vocab_size": ({}, 41),
    "dim": ({}, 32),
    "num_layers": ({}, 3),
    "num_heads": ({"conv_heads": ()}, 2),
    "conv_heads": ({}, (4,)),
    "mixers": ({}, ("wavelet",)),
    "causal": ({}, False),
    "num_modes": ({}, 4),
    "conv_chunk": (GATES["bands"] | {"num_modes": 4}, 16),
    "short_conv": ({}, 3),
    "classes": ({}, 3),
    "pooling": ({"classes": 3}, "max"),
    "multi_label": ({"classes": 3}, True),
    "recall_rule": ({}, "delta"),
    "recall_strength": ({"recall_rule": "delta"}, 1.0),
    "recall_erase": ({"recall_rule": "delta"}, "channel"),
    "recall_phase": ({}, "data"),
    "recall_bias": ({}, True),
    "source_layers": ({}, 1),
    "source_bands": ({"source_layers": 1}, 2),
    "source_dim": ({"source_layers": 1}, 8),
    "embedding": ({}, "harmonic"),
    "feed_forward": ({}, "frequency"),
    "ffn_dim": ({}, 25),
    "max_time_constant": ({}, 10.0),
    "rotary_base": ({}, 100.0),
    "norm_eps": ({}, 1e-2),
    "gates.selection_parts": (GATES["selection"], ()),
    "gates.frequency_dropout": ({"num_modes": 4}, 0.5),
    "gates.entropy_weight": ({"num_modes": 4}, 1.0),
    "gates.consistency_weight": (GATES["bands"] | {"num_modes": 4}, 1.0),
    "fft.chunk": (FFT, 4),
    "fft.direct": (ENCODER, 8),
    "fft.overlap": (FFT, 0.5),
    "fft.fusion_dim": (FFT, 2),
    "fft.bands": (FFT, 2),
    "wavelet.family": (WAVELET, "haar"),
    "wavelet.levels": (WAVELET, 2),
    "experts.count": ({"feed_forward": "experts"}, 4),
    "experts.per_token": ({"feed_forward": "experts"}, 1),
    "experts.balance_weight": ({"feed_forward": "experts"}, 1.0),
    "experts.router_z_weight": ({"feed_forward": "experts"}, 1.0),
} | {
    f"gates.{part}": ({"num_modes": 4}, True)
    for part in (
        *("bands", "soft_threshold", "phase_functions", "cross_head"),
        *("magnitude_mixing", "residual", "selection"),
    )
}
# they change the order of sums only, and a bank is the one of its family
SPEED = {"recall_chunk", "wavelet.bank"}


def _keys(table: BaseModel, prefix: str = "") -> list[str]:
    keys = []
    for key, value in table:
        nested = isinstance(value, BaseModel)
        keys += _keys(value, f"{prefix}{key}.") if nested else [prefix + key]  # type: ignore[arg-type]
    return keys


def _changed(base: dict[str, Any], key: str, value: Any) -> ModelConfig:
    table, _, inner = key.rpartition(".")
    if table:
        return small_config(**base | {table: base.get(table, {}) | {inner: value}})
    return small_config(**base | {key: value})


def _computed(config: ModelConfig) -> list[float]:
    """Losses of a sequence in training mode, and the sizes of all parameters."""
    torch.manual_seed(0)
    model = model_class(config)(config).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.manual_seed(2)
    with torch.no_grad():
        labels = TOKENS[:, 1:] % config.classes if config.classes else TOKENS[:, 1:]
        loss = model(TOKENS[:, :-1], torch.zeros_like(labels), labels)
    return [float(loss.nll), float(loss.auxiliary), *(p.numel() for p in model.parameters())]


def test_every_key_has_a_case() -> None:
    assert set(_keys(ModelConfig())) == set(CASES) | SPEED


@pytest.mark.parametrize("key", CASES)
def test_a_key_has_an_effect(key: str) -> None:
    base, value = CASES[key]
    config, other = small_config(**base), _changed(base, key, value)
    assert config != other
    assert _computed(config) != _computed(other)
