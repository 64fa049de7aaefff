"""Products of bfloat16 signals: with the processor's instructions, and without them."""

import pytest
import torch
from torch import Tensor, nn

from spectral.modules import linear as module
from spectral.modules.linear import Linear, WideLinear
from spectral.modules.norm import RMSNorm

EPS = torch.finfo(torch.bfloat16).eps


@pytest.fixture(params=[True, False], ids=["instructions", "none"])
def _processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_multiplies_bfloat16", lambda: request.param)


def _results(layer: nn.Module, x: Tensor, grad: Tensor, autocasts: bool) -> list[Tensor]:
    """Output and gradients of input and parameters; an integer signal has exact products."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
        y = layer(x)
    y.backward(grad.to(y.dtype))
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    return [i for i in (y, x.grad, *gradients) if i is not None]


def _layer(kind: type[nn.Linear]) -> nn.Linear:
    torch.manual_seed(0)
    layer = kind(8, 5)
    with torch.no_grad():
        # numbers that bfloat16 rounds
        layer.weight.copy_(torch.randint(-64, 65, (5, 8)) / 16 + 2.0**-12)
        layer.bias.copy_(torch.randint(-4, 5, (5,)))
    return layer


@pytest.mark.usefixtures("_processor")
def test_linear_multiplies_rounded_operands_and_sums_in_float32() -> None:
    layer = _layer(Linear)
    x, grad = (torch.randint(-3, 4, s).float() for s in ((2, 7, 8), (2, 7, 5)))
    found = _results(layer, x, grad, autocasts=True)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    exact = _results(layer, x, grad, autocasts=False)
    assert found[0].dtype == torch.bfloat16
    assert [i.dtype for i in found[1:]] == [torch.float32] * 3
    for ours, theirs in zip(found, exact, strict=True):
        # exact sums, which are rounded once
        torch.testing.assert_close(ours.float(), theirs, rtol=EPS / 2, atol=0)


@pytest.mark.usefixtures("_processor")
def test_wide_linear_rounds_nothing_and_keeps_the_half_signal() -> None:
    layer = _layer(WideLinear)
    x, grad = (torch.randint(-3, 4, s).float() for s in ((2, 7, 8), (2, 7, 5)))
    exact = _results(layer, x, grad, autocasts=False)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = _results(layer, x.bfloat16(), grad, autocasts=False)
    assert found[0].dtype == torch.float32
    assert all(t.dtype == torch.bfloat16 or t is layer.weight for t in kept)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=EPS / 2, atol=0)


def test_norm_of_half_precision_sums_in_float32_and_keeps_the_signal() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(64, eps=1e-6)
    nn.init.normal_(norm.weight)
    x, grad = torch.randn(2, 9, 64).bfloat16(), torch.randn(2, 9, 64).bfloat16()
    exact = _results(norm, x.float(), grad.float(), autocasts=False)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = _results(norm, x, grad, autocasts=False)
    assert sum(t.numel() for t in kept if t.dtype == torch.float32) == 64 + 2 * 9
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=EPS, atol=EPS / 4)
