"""Rates that transfer across widths: every parameter's rate, and a coordinate check."""

from typing import Any

import pytest
import torch

from pretrain.config import RunConfig
from pretrain.parallel.matrices import matrix_blocks
from pretrain.parallel.split_model import empty_model, initialised_parts
from pretrain.training.muon import MatrixMomentum
from pretrain.training.optimizer import build_optimizer
from spectral.lm import SpectralLM
from tests.unit.pretrain.training.test_optimizer import whole_matrices

BASE = 32


def _run(width: int, **optim: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {
                "vocab_size": 128,
                "dim": width,
                "num_layers": 2,
                "num_heads": width // 16,
                "num_modes": 4,
                "conv_chunk": 16,
                "recall_chunk": 16,
                "ffn_dim": 2 * width,
            },
            "optim": {"learning_rate": 2e-3, "base_width": BASE} | optim,
        }
    )


def _model(run: RunConfig) -> SpectralLM:
    model = empty_model(run.model)
    for _ in initialised_parts(model, run):
        pass
    return model


@pytest.mark.parametrize(("name", "of_matrices"), [("adamw", 4.0), ("muon", 2.0)])
def test_every_parameter_has_its_rate(name: str, of_matrices: float) -> None:
    run = _run(4 * BASE, name=name, scale="width")
    model = _model(run)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    divisors = {}
    for group in build_optimizer(model, run).param_groups:
        for parameter in group["params"]:
            key = names.pop(id(parameter))
            divisors[key] = run.optim.learning_rate / group["lr"]
            product = group["lr"] * group["weight_decay"]
            decays = run.optim.learning_rate * run.optim.weight_decay if group["decays"] else 0.0
            assert product == pytest.approx(decays)
    assert not names
    matrices = set(matrix_blocks(run.model))
    for key, divisor in divisors.items():
        wanted = 1.0
        if key in matrices:
            wanted = of_matrices
        elif key.endswith("decay_proj.weight") or key == "final_norm.weight":
            wanted = 4.0
        assert divisor == pytest.approx(wanted), key
    assert model.final_norm.weight.eq(0.25).all()
    assert model.blocks[0].mixer_norm.weight.eq(1.0).all()


def test_no_rule_for_a_head_of_classes() -> None:
    table = {"model": {"classes": 3}, "objective": {"kind": "classify"}}
    RunConfig.model_validate(table)
    with pytest.raises(ValueError, match=r"optim\.scale is 'width' with model\.classes 3"):
        RunConfig.model_validate(table | {"optim": {"scale": "width"}})


def _gain(width: int, name: str, scale: str) -> float:
    """Change of the labels' logits in a few steps, over that of all logits."""
    run = _run(width, name=name, scale=scale)
    model = _model(run)
    optimizer = build_optimizer(model, run)
    if isinstance(optimizer, MatrixMomentum):
        optimizer.bind(whole_matrices(model, matrix_blocks(run.model)))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(128, (8, 33), generator=generator)
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        before = model(inputs)
    for _ in range(4):
        model(inputs, None, labels).nll.div(labels.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        change = model(inputs) - before
    return float(change.gather(2, labels[..., None]).mean() - change.mean())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_steps_move_logits_by_as_much_at_every_width(name: str) -> None:
    narrow, wide = (_gain(width, name, "width") for width in (BASE, 8 * BASE))
    assert 0.85 < wide / narrow < 1.2
    # one rate for all moves those of a wide model by several times as much
    assert _gain(8 * BASE, name, "none") > 5 * wide
