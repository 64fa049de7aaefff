"""Sizes: as many parameters as their names say, counted without memory for them."""

import pytest
import torch

from spectral.lm import SpectralLM
from spectral.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_its_name(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = SpectralLM(preset.model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == pytest.approx(preset.num_parameters, rel=0.05)
    # nothing is as long as the sequence
    assert preset.context_length not in {size for p in model.parameters() for size in p.shape}
