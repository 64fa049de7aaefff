"""Polar weights: levels, packing, errors on normal numbers, rotations."""

import math

import pytest
import torch
from torch import nn

from pretrain.quantization.coding import encoded
from spectral.modules.polar import (
    BLOCK,
    LEVELS,
    SPLITS,
    PolarWeight,
    codebook,
    make_polar,
    nearest_codes,
    pack,
    packed_size,
    polar_parts,
    rotated,
    rotation_size,
    unpack,
)

# relative errors in norm: the bars, and for 3 bits what Lloyd-Max levels reach
ERRORS = {6: 0.030, 4: 0.098, 3: 0.19}


def _lloyd_max(count: int) -> torch.Tensor:
    """Levels of a Rayleigh magnitude: every level is the mean of its cell."""

    def moment(r: torch.Tensor) -> torch.Tensor:
        root = math.sqrt(math.pi / 2)
        return root * torch.erf(r / math.sqrt(2)) - r * torch.exp(-r * r / 2)

    level = torch.linspace(0.2, 3.5, count, dtype=torch.float64)
    ends = torch.tensor([0.0, 12.0], dtype=torch.float64)
    for _ in range(20_000):
        border = torch.cat([ends[:1], (level[1:] + level[:-1]) / 2, ends[1:]])
        mass = torch.exp(-(border[:-1] ** 2) / 2) - torch.exp(-(border[1:] ** 2) / 2)
        level = (moment(border[1:]) - moment(border[:-1])) / mass
    return level


@pytest.mark.parametrize("bits", LEVELS)
def test_levels_are_those_of_lloyd_and_max(bits: int) -> None:
    level = torch.tensor(LEVELS[bits], dtype=torch.float64)
    assert len(level) == 1 << bits
    torch.testing.assert_close(level, _lloyd_max(1 << bits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", SPLITS)
@pytest.mark.parametrize("count", [1, 7, 8, 1001])
def test_codes_survive_packing(bits: int, count: int) -> None:
    codes = torch.randint(1 << 2 * bits, (count,), dtype=torch.int32)
    data = pack(codes, bits)
    assert data.dtype == torch.uint8
    assert len(data) == packed_size(2 * count, bits) - 2 * -(-2 * count // BLOCK)
    assert len(data) <= -(-2 * count * bits // 8) + 2
    assert torch.equal(unpack(data, bits, count), codes)


@pytest.mark.parametrize("bits", SPLITS)
def test_error_on_normal_weights(bits: int) -> None:
    torch.manual_seed(0)
    weight = 0.02 * torch.randn(512, 256)
    polar = PolarWeight(weight.shape, bits, 256)
    data = encoded(polar, weight)
    assert data.dtype == torch.uint8
    error = float((polar(data) - weight).norm() / weight.norm())
    assert error < ERRORS[bits]
    # Shannon's limit
    assert error > 2.0**-bits


def test_a_step_of_eight_bits_of_phase() -> None:
    """No phase is off by more than half of 1.41 degrees."""
    angle = torch.linspace(-math.pi, math.pi, 10_001)
    pairs = torch.polar(torch.ones_like(angle), angle)
    book = codebook(8, LEVELS[5])
    off = (book[nearest_codes(pairs, 8, LEVELS[5]).long()] * pairs.conj()).angle().abs().max()
    assert math.degrees(float(off)) <= 1.41 / 2


def test_rotations_are_their_own_inverse() -> None:
    x = torch.randn(3, 96, dtype=torch.float64)
    assert rotation_size(96) == 32
    once = rotated(x, 32)
    torch.testing.assert_close(rotated(once, 32), x)
    torch.testing.assert_close(once.norm(), x.norm())
    spike = rotated(torch.eye(8, dtype=torch.float64)[:1], 8)
    torch.testing.assert_close(spike.abs(), torch.full((1, 8), 8**-0.5, dtype=torch.float64))


def test_rotations_help_weights_that_are_not_normal() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64) ** 3
    errors = []
    for rotation in (1, 64):
        polar = PolarWeight(weight.shape, 4, rotation)
        errors.append(float((polar(encoded(polar, weight)) - weight).norm() / weight.norm()))
    assert errors[1] < 0.5 * errors[0]


def test_feedback_makes_up_for_errors_on_inputs() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(64, 64) * torch.logspace(0, -2, 64)
    x = torch.randn(2000, 64) @ mixing.T
    weight = torch.randn(32, 64)
    errors = []
    for moments in (None, (x.T @ x / len(x)).double()):
        polar = PolarWeight(weight.shape, 4, 64)
        found = polar(encoded(polar, weight, moments))
        errors.append(float((x @ (found - weight).T).norm() / (x @ weight.T).norm()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_extreme_blocks_stay_finite(value: float) -> None:
    weight = torch.full((4, 512), value)
    polar = PolarWeight(weight.shape, 6, 1)
    found = polar(encoded(polar, weight))
    assert bool(found.isfinite().all())
    assert float((found - weight).abs().max()) <= 0.1 * value + 1e-29


def test_a_layer_becomes_polar_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32))
    weight = model[0].weight.detach().clone()
    make_polar(model, 6, True, ["0.weight"])
    polar, stored = polar_parts(model, "0.weight")
    stored.copy_(encoded(polar, weight))
    x = torch.randn(5, 64)
    expected = nn.functional.linear(x, weight, model[0].bias)
    torch.testing.assert_close(model(x), expected, rtol=0.1, atol=0.1)
    assert set(model.state_dict()) == {"0.bias", "0.parametrizations.weight.original0"}
    assert stored.numel() < 0.2 * 4 * weight.numel()
