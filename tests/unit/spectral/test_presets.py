"""Presets: as many parameters as they are named after, counted without memory; causal."""

import pytest
import torch

from kernels.fft_conv.triton_monarch import MAX_CHUNK_FLOAT32
from kernels.modal.triton import MAX_MODES
from kernels.recall.triton import MAX_CHANNELS
from spectral.lm import SpectralLM
from spectral.presets import PRESETS
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_its_name(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = SpectralLM(preset.model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == pytest.approx(preset.num_parameters, rel=0.05)
    # nothing is as long as the sequence
    assert preset.context_length not in {size for p in model.parameters() for size in p.shape}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_kernels_for_its_chunks_heads_and_modes(name: str) -> None:
    model = PRESETS[name].model
    # in float32 too, of which longer chunks do not fit into registers
    assert model.conv_chunk <= MAX_CHUNK_FLOAT32
    assert model.dim // model.num_heads <= MAX_CHANNELS
    assert model.num_modes <= MAX_MODES


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_features_are_causal(name: str) -> None:
    sizes = small_config().model_fields_set - {"conv_heads"}
    features = PRESETS[name].model.model_dump(exclude=sizes)
    model = small_model(small_config(**features))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 30)
