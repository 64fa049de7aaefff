"""The optimizer of a run: its parameter groups, and the state that checkpoints expect of it."""

from typing import get_args

import pytest
import torch

from pretrain.optim_config import OPTIMIZER_STATE, OptimConfig
from pretrain.training.optimizer import BUILDERS, build_optimizer, parameter_groups
from spectral.config import ModelConfig
from spectral.lm import SpectralLM


def small_model() -> SpectralLM:
    return SpectralLM(ModelConfig(dim=16, num_layers=1, conv_heads=(2,), vocab_size=10, ffn_dim=8))


def test_only_matrices_decay_and_every_parameter_is_in_one_group() -> None:
    model = small_model()
    decayed, others = (
        {id(parameter) for parameter in group["params"]} for group in parameter_groups(model, 0.1)
    )
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert not decayed & others
    assert len(decayed | others) == len(list(model.parameters()))
    assert names == {
        "embedding.weight",
        "blocks.0.mixer.in_proj.weight",
        "blocks.0.mixer.out_proj.weight",
        "blocks.0.mixer.decay_proj.weight",
        "blocks.0.feed_forward.gate_up_proj.weight",
        "blocks.0.feed_forward.down_proj.weight",
    }


def test_every_optimizer_has_a_builder_and_a_state() -> None:
    names = set(get_args(OptimConfig.model_fields["name"].annotation))
    assert names == set(BUILDERS) == set(OPTIMIZER_STATE)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_the_state_is_what_the_optimizer_keeps(name: str) -> None:
    model, optim = small_model(), OptimConfig.model_validate({"name": name})
    optimizer = build_optimizer(model, optim)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        state = dict(optimizer.state[parameter])
        assert state.pop("step").numel() == 1
        assert set(state) == set(optim.state_tensors)
        assert {tensor.shape for tensor in state.values()} == {parameter.shape}
