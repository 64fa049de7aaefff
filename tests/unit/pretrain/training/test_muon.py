"""Muon: torch's arithmetic on the maps of a model, whatever parts of them a rank holds."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.optim_config import OptimConfig
from pretrain.parallel.matrices import Place, map_places, matrix_blocks, state_tensors_per_number
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement
from pretrain.training.matrix_exchange import Held, MatrixExchange
from pretrain.training.muon import COEFFICIENTS, EPSILON, ITERATIONS, orthogonalized
from pretrain.training.optimizer import build_optimizer
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from tests.unit.pretrain.training.test_optimizer import small_model, whole_matrices

ALONE, CPU = Axis(1, 0, None), torch.device("cpu")


@pytest.mark.parametrize("shape", [(8, 8), (4, 24), (24, 4)])
def test_orthogonalized_is_what_torch_computes_in_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    found = orthogonalized(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        expected = _zeropower_via_newtonschulz(matrix, COEFFICIENTS, ITERATIONS, EPSILON).float()
        # bfloat16 rounds each of five iterations by up to 2^-8, which slopes of 3.4 enlarge
        assert float((result - expected).norm() / expected.norm()) < 0.05
    singular = torch.linalg.svdvals(found)
    assert float(singular.min()) > 0.4
    assert float(singular.max()) < 1.3


def test_steps_are_those_of_torch_on_each_map(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = small_model()
    optim = OptimConfig(name="muon", learning_rate=0.02, weight_decay=0.1)
    run = RunConfig(model=model.config, optim=optim)
    matrices = matrix_blocks(run.model)
    # torch's own, in the precision of ours
    monkeypatch.setattr(
        "torch.optim._muon._zeropower_via_newtonschulz",
        lambda grad, *_: orthogonalized(grad[None])[0],
    )
    maps = {
        (name, number): torch.nn.Parameter(_map(parameter, place).clone())
        for name, parameter in model.named_parameters()
        for number, place in _places(name, parameter, matrices)
    }
    others = {
        name: torch.nn.Parameter(parameter.detach().clone())
        for name, parameter in model.named_parameters()
        if name not in matrices
    }
    decayed = {"embedding.weight", "blocks.0.mixer.decay_proj.weight"}
    references = [
        torch.optim.Muon(
            maps.values(), lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": [p for n, p in others.items() if n in decayed], "weight_decay": 0.1},
                {"params": [p for n, p in others.items() if n not in decayed], "weight_decay": 0.0},
            ],
            lr=0.02,
            betas=(0.9, 0.95),
        ),
    ]
    optimizer = build_optimizer(model, run)
    optimizer.bind(whole_matrices(model, matrices))  # type: ignore[attr-defined]
    for _ in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            for number, place in _places(name, parameter, matrices):
                maps[name, number].grad = _map(parameter.grad, place)
            if name in others:
                others[name].grad = parameter.grad
        for each in (optimizer, *references):
            each.step()
    assert len(maps) == 4 + 1 + 2 + 1
    for name, parameter in model.named_parameters():
        for number, place in _places(name, parameter, matrices):
            torch.testing.assert_close(_map(parameter.detach(), place), maps[name, number].detach())
        if name in others:
            assert torch.equal(parameter, others[name])


def _places(name: str, weight: Tensor, matrices: dict[str, int]) -> list[tuple[int, Place]]:
    if name not in matrices:
        return []
    return list(enumerate(map_places(tuple(weight.shape), matrices[name])))


def _map(weight: Tensor, place: Place) -> Tensor:
    offsets, sizes = place
    for dim, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        weight = weight.narrow(dim, offset, size)
    return weight.detach().reshape(sizes[-2:])


def test_the_maps_of_a_model_with_experts() -> None:
    config = ModelConfig.model_validate(
        {
            "dim": 16,
            "num_layers": 1,
            "ffn_dim": 8,
            "vocab_size": 10,
            "feed_forward": "experts",
            "experts": {"count": 3},
            "gates": {"bands": True},
        }
    )
    assert matrix_blocks(config) == {
        "blocks.0.mixer.in_proj.weight": 4,
        "blocks.0.mixer.out_proj.weight": 1,
        "blocks.0.feed_forward.gate_up_proj.weight": 2,
        "blocks.0.feed_forward.down_proj.weight": 1,
    }
    assert len(list(map_places((3, 16, 16), 2))) == 6
    run = RunConfig(model=config, optim=OptimConfig(name="muon"))
    assert 1.0 < state_tensors_per_number(run) < 2.0
    assert state_tensors_per_number(RunConfig(model=config)) == 2.0


def test_stretches_of_a_weight_are_whole_matrices_again() -> None:
    weight = torch.randn(3, 4, 6)
    placement = Placement("w", (3, 4, 6))
    cuts = [0, 5, 17, 30, 72]
    parts = [weight.flatten()[a:b].clone() for a, b in itertools.pairwise(cuts)]
    flat = torch.cat([torch.zeros(2), parts[0], parts[2]]), torch.cat([parts[3], parts[1]])
    held = [
        Held(placement, 0, 5, flat[0], 2),
        Held(placement, 17, 13, flat[0], 7),
        Held(placement, 30, 42, flat[1], 0),
        Held(placement, 5, 12, flat[1], 42),
    ]
    exchange = MatrixExchange(held, {"w": 2}, ALONE, CPU)
    shapes = []

    def doubled(matrices: Tensor) -> Tensor:
        shapes.append(tuple(matrices.shape))
        return matrices * matrices.sum((-2, -1), keepdim=True)

    exchange.transform({each: each for each in flat}, doubled)
    assert shapes == [(6, 2, 6)]
    expected = weight.view(6, 2, 6) * weight.view(6, 2, 6).sum((-2, -1), keepdim=True)
    found = torch.cat([flat[0][2:7], flat[1][42:], flat[0][7:], flat[1][:42]]).view(6, 2, 6)
    torch.testing.assert_close(found, expected)
    assert flat[0][:2].eq(0).all()


def test_a_matrix_that_is_not_held_completely_is_refused() -> None:
    tensor = torch.zeros(4, 6)
    held = [Held(Placement("w", (4, 6)), 0, 20, tensor, 0)]
    with pytest.raises(RunError, match="matrix 1 of w is not held completely in this layout: its"):
        MatrixExchange(held, {"w": 2}, ALONE, CPU)


def test_a_model_moves_every_map_by_the_same_amount() -> None:
    torch.manual_seed(0)
    model = SpectralLM(ModelConfig(dim=32, num_layers=1, vocab_size=10, ffn_dim=24))
    run = RunConfig(
        model=model.config, optim=OptimConfig(name="muon", weight_decay=0.0, learning_rate=0.01)
    )
    optimizer = build_optimizer(model, run)
    optimizer.bind(whole_matrices(model, matrix_blocks(run.model)))  # type: ignore[attr-defined]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        if name in matrix_blocks(run.model):
            moved = (value.detach() - before[name]).square().mean().sqrt()
            # singular values are not exactly 1
            assert float(moved) == pytest.approx(0.01 * 0.2, rel=0.25)
