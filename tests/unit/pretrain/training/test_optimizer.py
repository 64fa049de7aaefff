"""The optimizer of a run: its parameter groups, and the state that checkpoints expect of it."""

from typing import get_args

import pytest
import torch

from pretrain.config import RunConfig
from pretrain.optim_config import OPTIMIZER_STATE, OptimConfig
from pretrain.parallel.matrices import matrix_blocks
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement
from pretrain.training.matrix_exchange import Held, MatrixExchange
from pretrain.training.muon import MatrixMomentum
from pretrain.training.optimizer import BUILDERS, build_optimizer, parameter_groups
from spectral.config import ModelConfig
from spectral.lm import SpectralLM


def whole_matrices(model: SpectralLM, matrices: dict[str, int]) -> MatrixExchange:
    """A model on one rank, without an engine."""
    held = [
        Held(Placement(name, tuple(value.shape)), 0, value.numel(), value, 0)
        for name, value in model.named_parameters()
    ]
    return MatrixExchange(held, matrices, Axis(1, 0, None), torch.device("cpu"))


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
    model = small_model()
    run = RunConfig(model=model.config, optim=OptimConfig.model_validate({"name": name}))
    optimizer = build_optimizer(model, run)
    matrices = matrix_blocks(run.model)
    if isinstance(optimizer, MatrixMomentum):
        optimizer.bind(whole_matrices(model, matrices))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for key, parameter in model.named_parameters():
        state = dict(optimizer.state[parameter])
        assert state.pop("step").numel() == 1
        assert set(state) == set(run.optim.state_tensors(is_matrix=key in matrices))
        assert {tensor.shape for tensor in state.values()} == {parameter.shape}
