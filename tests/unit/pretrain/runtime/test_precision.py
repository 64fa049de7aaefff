"""What matrix products are computed in, and the scale that keeps float16 gradients alive."""

import math

import pytest
import torch
from torch import nn

from pretrain.errors import RunError
from pretrain.runtime.precision import (
    LossScale,
    Precision,
    autocast,
    current_autocast,
    product_dtype,
)
from pretrain.train_config import TrainConfig


def test_precision_of_products() -> None:
    precision = Precision("bf16")
    linear = nn.Linear(8, 8)
    compute = precision.around(linear)
    x = torch.randn(2, 8)
    assert compute(x).dtype == torch.bfloat16
    with precision.off():
        assert compute(x).dtype == torch.float32
    assert compute(x).dtype == torch.bfloat16


def test_current_autocast_is_what_is_around() -> None:
    assert current_autocast() is None
    with autocast(torch.float16):
        assert current_autocast() == torch.float16
        with autocast(None):
            assert current_autocast() is None


def test_bf16_refused_on_a_gpu_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert product_dtype("auto") is None
    assert product_dtype("fp16") == torch.float16
    with pytest.raises(RunError, match=r'train\.precision is "bf16".*expected "auto", "fp16"'):
        product_dtype("bf16")


def _tiny_gradient(scale: float) -> torch.Tensor:
    torch.manual_seed(0)
    linear = nn.Linear(8, 8, bias=False)
    config = TrainConfig(precision="fp16", initial_loss_scale=scale)
    loss_scale = LossScale(config, linear.parameters())
    with autocast(torch.float16):
        loss = linear(torch.ones(1, 8)).float().mean() * 1e-8
    (loss * loss_scale.value).backward()
    assert linear.weight.grad is not None
    return linear.weight.grad


def test_scale_keeps_small_gradients() -> None:
    # 1e-8 / 8 is below the smallest float16
    assert not _tiny_gradient(1.0).any()
    torch.testing.assert_close(
        _tiny_gradient(2.0**16), torch.full((8, 8), 1e-8 / 8), rtol=1e-3, atol=0
    )


def test_scale_falls_to_one_and_grows_after_its_window() -> None:
    config = TrainConfig(precision="fp16", initial_loss_scale=4.0, loss_scale_window=2)
    scale = LossScale(config, [])
    assert [scale.rejects(1.0, math.inf) for _ in range(3)] == [True, True, False]
    assert scale.value == 1.0
    assert not scale.rejects(1.0, 1.0)
    assert scale.value == 1.0
    assert not scale.rejects(1.0, 1.0)
    assert scale.value == 2.0
    # no scale helps a loss that is no number: the guard judges it
    assert not scale.rejects(math.nan, math.nan)
    assert scale.value == 2.0


def test_nothing_is_scaled_in_float32() -> None:
    scale = LossScale(TrainConfig(precision="float32"), [])
    assert scale.value == 1.0
    assert not scale.rejects(1.0, math.inf)
    assert scale.state_dict() == {}
    scale.load_state_dict({"value": 8.0, "good_steps": 1})
    assert scale.value == 1.0
