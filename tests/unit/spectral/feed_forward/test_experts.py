"""The mixture of experts: what it computes, what it costs, and that tokens do not meet in it.

Shape letters: N tokens, D channels, E experts, K experts per token.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral.feed_forward.config import ExpertsConfig
from spectral.feed_forward.experts import ExpertsFeedForward, router_losses
from spectral.lm import LMLoss, SpectralLM
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
    some_tokens,
)

EXPERTS: dict[str, object] = {
    "feed_forward": "experts",
    "experts": {"count": 6, "per_token": 2},
}


def _layer(num_experts: int, experts_per_token: int) -> ExpertsFeedForward:
    torch.manual_seed(0)
    return ExpertsFeedForward(
        10, 14, ExpertsConfig(count=num_experts, per_token=experts_per_token)
    ).double()


def _one_by_one(layer: ExpertsFeedForward, x_ND: Tensor) -> Tensor:
    """The definition, token by token and expert by expert."""
    outputs = []
    for x_D in x_ND:
        probability_E = (layer.router.weight @ x_D).softmax(-1)
        chosen = probability_E.argsort(descending=True)[: layer.experts_per_token]
        total = probability_E[chosen].sum() if len(chosen) > 1 else 1.0
        y_D = torch.zeros_like(x_D)
        for e in chosen:
            gate, up = (layer.gate_up_proj.weight[e] @ x_D).chunk(2)
            y_D = y_D + probability_E[e] / total * (layer.down_proj.weight[e] @ (F.silu(gate) * up))
        outputs.append(y_D)
    return torch.stack(outputs)


@pytest.mark.parametrize(("num_experts", "per_token"), [(6, 2), (6, 1), (3, 3), (1, 1), (40, 4)])
def test_it_is_the_weighted_sum_of_the_likeliest_experts(num_experts: int, per_token: int) -> None:
    layer = _layer(num_experts, per_token)
    x_ND = torch.randn(12, 10, dtype=torch.float64, requires_grad=True)
    inputs = [x_ND, *layer.parameters()]
    expected, found = _one_by_one(layer, x_ND), layer(x_ND)[0]
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    wanted, gradients = (
        torch.autograd.grad((y * direction).sum(), inputs, materialize_grads=True)
        for y in (expected, found)
    )
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_a_batch_are_tokens_like_others() -> None:
    layer = _layer(6, 2)
    x_BTD = torch.randn(2, 5, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x_BTD)[0].flatten(0, 1), layer(x_BTD.flatten(0, 1))[0])


def test_a_token_does_not_feel_how_busy_its_experts_are() -> None:
    layer = _layer(6, 2)
    x_ND = torch.randn(50, 10, dtype=torch.float64)
    crowd_ND = x_ND[:1].expand(1000, -1)
    together = layer(torch.cat([crowd_ND, x_ND]))[0][1000:]
    torch.testing.assert_close(together, layer(x_ND)[0])


@pytest.mark.parametrize("per_token", [1, 2])
def test_models_with_experts_stay_causal_isolated_and_recurrent(per_token: int) -> None:
    model = small_model(small_config(**EXPERTS | {"experts": {"count": 6, "per_token": per_token}}))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model)


def test_a_mixer_without_heads_goes_with_experts() -> None:
    check_recurrent(small_model(small_config(**EXPERTS, mixers=("fft",), fft={"chunk": 8})))


def test_routing_losses_know_even_from_lonely_use() -> None:
    N, E = 600, 6
    logits_NE = torch.zeros(N, E, dtype=torch.float64)
    balance, router_z = router_losses(logits_NE, torch.full((E,), 2 * N // E))
    assert balance.item() == pytest.approx(1.0)
    assert router_z.item() == pytest.approx(math.log(E) ** 2)
    logits_NE[:, 2] = 50.0
    counts_E = torch.tensor([0, 0, N, 0, 0, 0])
    balance, router_z = router_losses(logits_NE, counts_E)
    assert balance.item() == pytest.approx(E)
    assert router_z.item() == pytest.approx(2500.0)


def test_routing_losses_are_weighted_summed_over_layers_and_reach_the_router() -> None:
    def auxiliary(**weights: float) -> tuple[Tensor, SpectralLM]:
        experts = {"count": 6, "per_token": 2, **weights}
        model = small_model(small_config(**EXPERTS | {"experts": experts}))
        tokens = some_tokens(2, 16)
        loss = model(tokens, None, tokens)
        assert isinstance(loss, LMLoss)
        return loss.auxiliary, model

    assert auxiliary(balance_weight=0.0, router_z_weight=0.0)[0] == 0.0
    balance, model = auxiliary(balance_weight=1.0, router_z_weight=0.0)
    # of two layers; a layer's is 1 only if it is balanced to perfection
    assert 1.8 < balance.item() < 2 * 6
    balance.backward()
    assert all(block.feed_forward.router.weight.grad.norm() > 0 for block in model.blocks)
    router_z, _ = auxiliary(balance_weight=0.0, router_z_weight=1.0)
    both, _ = auxiliary(balance_weight=0.5, router_z_weight=0.25)
    assert both.item() == pytest.approx(0.5 * balance.item() + 0.25 * router_z.item())


def test_the_balancing_loss_balances() -> None:
    """Gradient descent on it alone spreads tokens that all begin at one expert."""
    layer = _layer(4, 1)
    x_ND = torch.randn(256, 10, dtype=torch.float64)
    with torch.no_grad():
        layer.router.weight[0] = 3.0 * x_ND.mean(0)
        layer.router.weight[1:] *= 0.01
    optimizer = torch.optim.Adam([layer.router.weight], lr=0.05)
    x_ND = x_ND + 0.5
    before = layer(x_ND)[1].item()
    for _ in range(60):
        optimizer.zero_grad()
        layer(x_ND)[1].backward()
        optimizer.step()
    assert layer(x_ND)[1].item() < min(1.1, before)


def test_the_router_decides_in_float32_under_autocast() -> None:
    layer = _layer(64, 2).float()
    x_ND = torch.randn(200, 10)
    chosen = []
    layer.router.register_forward_hook(lambda _m, _i, logits: chosen.append(logits.topk(2)[1]))
    layer(x_ND)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x_ND)
    assert torch.equal(*chosen)


def test_only_a_token_s_own_experts_are_computed() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def flops(num_experts: int) -> int:
        with FlopCounterMode(display=False) as counter:
            _layer(num_experts, 2)(torch.randn(64, 10, dtype=torch.float64))
        return counter.get_total_flops() - 2 * 64 * 10 * num_experts

    assert flops(4) == flops(32) == 64 * 2 * 3 * (2 * 10 * 14)


def test_weights_decay_as_those_of_linear_layers_do() -> None:
    from pretrain.training.optimizer import parameter_groups

    model = small_model(small_config(**EXPERTS))
    decayed = {id(p) for p in parameter_groups(model, 0.1)[0]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    for kind in ("router", "gate_up_proj", "down_proj"):
        assert f"blocks.0.feed_forward.{kind}.weight" in names


def test_more_experts_per_token_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="at most count=4, got 5"):
        ExpertsConfig(count=4, per_token=5)
    with pytest.raises(ValueError, match=r"experts\.count"):
        small_config(experts={"count": 0})
    with pytest.raises(ValueError, match=r"experts\.balance_weight"):
        small_config(experts={"balance_weight": -1.0})
