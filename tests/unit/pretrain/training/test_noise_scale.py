"""The gradient noise scale: of gradients whose mean and variance are known."""

import pytest
import torch

from pretrain.training import noise_scale
from pretrain.training.noise_scale import NoiseScale

CPU = torch.device("cpu")


def test_the_noise_scale_of_known_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_scale, "summed", lambda values, _: values)
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(1000))
    meter = NoiseScale(1, [parameter])
    truth, sigma, labels, passes = torch.full((1000,), 0.02), 0.5, 10, 8
    for step in range(1, 200):
        meter.begin(step)
        parameter.grad = None
        for _ in range(passes):
            noise = sigma * torch.randn(labels, 1000)
            # the engine's scale: a sum over this micro-batch's tokens, divided by those of the step
            loss = ((truth + noise) * parameter).sum() / (labels * passes)
            loss.backward()
            meter.end_pass(labels)
        assert parameter.grad is not None
        figures = meter.record(float(parameter.grad.norm()), labels * passes, 1, CPU)
    # tr(S) = 1000 * 0.25 per token, |G|^2 = 1000 * 0.0004
    assert figures["gradient_variance"] == pytest.approx(250.0, rel=0.05)
    assert figures["gradient_signal"] == pytest.approx(0.4, rel=0.5)
    other = NoiseScale(1, [])
    other.load_state_dict(meter.state_dict())
    assert other.state_dict() == meter.state_dict()


def test_other_steps_are_not_measured() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    meter = NoiseScale(5, [parameter])
    meter.begin(4)
    parameter.sum().backward()
    meter.end_pass(3)
    assert meter.record(1.0, 3, 1, CPU) == {}
    assert NoiseScale(0, [parameter]).state_dict() == {}
