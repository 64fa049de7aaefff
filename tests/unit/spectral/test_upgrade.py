"""Models of version 0.1: run files are pointed to the new keys, saved ones are read."""

import pytest
import torch
from pydantic import ValidationError

from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from spectral.upgrade import MOVED, nested_keys, parameter_name
from tests.unit.spectral.causality.checks import small_config

FLAT = {
    "mixers": ("fft", "wavelet"),
    "num_modes": 8,
    "band_gates": True,
    "bin_selection": True,
    "entropy_weight": 0.1,
    "fft_chunk": 8,
    "fusion_dim": 2,
    "wavelet": "haar",
    "wavelet_levels": 2,
    "num_experts": 4,
}


@pytest.mark.parametrize("key", MOVED)
def test_a_flat_key_is_refused_and_its_place_named(key: str) -> None:
    value = "db4" if key == "wavelet" else 1
    with pytest.raises(ValidationError, match=f"{key} is now {MOVED[key]}"):
        ModelConfig.model_validate({key: value})


def test_every_place_exists() -> None:
    for place in MOVED.values():
        table, key = place.split(".")
        assert key in type(getattr(ModelConfig(), table)).model_fields


def test_a_saved_table_is_read() -> None:
    config = ModelConfig.model_validate(nested_keys(FLAT))
    assert config.gates.bands
    assert config.gates.selection
    assert config.gates.entropy_weight == 0.1
    assert (config.fft.chunk, config.fft.fusion_dim, config.experts.count) == (8, 2, 4)
    assert (config.wavelet.family, config.wavelet.levels) == ("haar", 2)
    # one of today is left as it is
    assert nested_keys(config.model_dump()) == config.model_dump()


def test_a_table_that_is_none_is_reported() -> None:
    with pytest.raises(ValidationError, match="gates"):
        ModelConfig.model_validate(nested_keys({"gates": 3, "band_gates": True}))


@pytest.mark.parametrize("causal", [True, False])
def test_names_of_saved_parameters_are_those_of_today(causal: bool) -> None:
    with torch.device("meta"):
        model = SpectralLM(small_config(mixers=("fft", "wavelet"), causal=causal))
    names = set(model.state_dict())
    assert {parameter_name(name) for name in names} == names
    level = "blocks.1.mixer.levels.0" if causal else "blocks.1.mixer.levels.0.past"
    assert parameter_name(f"{level}.inner.log_decay") in names
