"""The reference ops: against their definitions, their gradients, and torch's operator checks."""

import pytest
import torch
from torch import Tensor

from kernels.fft_conv.op import fft_conv
from kernels.linear_cross_entropy.op import linear_cross_entropy
from kernels.linear_cross_entropy.reference import BLOCK
from kernels.short_conv.op import short_conv
from kernels.state_scan.op import state_scan

OPERATORS = torch.ops.resonance
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def _randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("C", [1, 2, 7, 64, 100])
def test_fft_conv_equals_the_direct_product_of_integers_exactly(C: int) -> None:
    generator = torch.Generator().manual_seed(C)
    u = torch.randint(-9, 10, (3, 4, C), generator=generator, dtype=torch.float64)
    h = torch.randint(-9, 10, (3, C), generator=generator, dtype=torch.float64)
    direct = torch.zeros_like(u)
    for t in range(C):
        for s in range(t + 1):
            direct[..., t] += h[:, None, t - s] * u[..., s]
    assert torch.equal(fft_conv(u, h).round(), direct)


@pytest.mark.parametrize("complex_", [False, True])
def test_state_scan_equals_its_recurrence(complex_: bool) -> None:
    torch.manual_seed(0)
    dtype = torch.complex128 if complex_ else torch.float64
    decay, update, initial = (
        torch.randn(s, dtype=dtype) for s in ((2, 5, 3), (2, 5, 3, 4), (2, 3, 4))
    )
    incoming, final = state_scan(decay, update, initial)
    state = initial
    for j in range(5):
        torch.testing.assert_close(incoming[:, j], state)
        state = decay[:, j, :, None] * state + update[:, j]
    torch.testing.assert_close(final, state)


def test_short_conv_reaches_only_as_far_as_told() -> None:
    x, taps = torch.randn(2, 8, 3), torch.randn(4, 3)
    reach = torch.tensor([[0, 1, 2, 3, 3], [3, 0, 1, 0, 1]])
    y = short_conv(x[:, 3:], x[:, :3], taps, reach)
    for b in range(2):
        for t in range(5):
            expected = sum(taps[w] * x[b, 3 + t - w] for w in range(int(reach[b, t]) + 1))
            torch.testing.assert_close(y[b, t], expected)


def test_linear_cross_entropy_equals_logits_and_cross_entropy() -> None:
    torch.manual_seed(0)
    # more than one block, the last one incomplete, labels ignored in both
    x, weight = _randn(BLOCK + 9, 8), _randn(30, 8)
    labels = torch.randint(30, (BLOCK + 9,))
    labels[[0, 5, BLOCK + 3]] = -100
    loss = linear_cross_entropy(x, weight, labels)
    logits = x @ weight.t()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    # a scale, to see that the incoming gradient is used
    ours = torch.autograd.grad(3.0 * loss, (x, weight))
    theirs = torch.autograd.grad(3.0 * expected, (x, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_every_backward_passes_gradcheck() -> None:
    torch.manual_seed(0)
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(fft_conv, (_randn(2, 3, 7), _randn(2, 7)))
    assert gradcheck(state_scan, (_randn(2, 4, 3), _randn(2, 4, 3, 2), _randn(2, 3, 2)))
    c = torch.complex128
    arguments = (_randn(1, 3, 2, dtype=c), _randn(1, 3, 2, 1, dtype=c), _randn(1, 2, 1, dtype=c))
    assert gradcheck(state_scan, arguments)
    # one row and several; the last signal is shorter than its past
    for B, T in ((1, 6), (2, 6), (2, 2)):
        for reach in (torch.randint(0, 4, (B, T)), None):
            assert gradcheck(short_conv, (_randn(B, T, 3), _randn(B, 3, 3), _randn(4, 3), reach))
    labels = torch.tensor([1, -100, 4])
    assert gradcheck(
        lambda x, weight: linear_cross_entropy(x, weight, labels), (_randn(3, 4), _randn(5, 4))
    )


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("fft_conv", (_randn(2, 3, 8), _randn(2, 8))),
        ("state_scan", (_randn(2, 4, 3), _randn(2, 4, 3, 2), _randn(2, 3, 2))),
        ("short_conv", (_randn(2, 6, 3), _randn(2, 3, 3), _randn(4, 3), None)),
        ("linear_cross_entropy", (_randn(3, 4), _randn(5, 4), torch.tensor([1, 2, 4]), True)),
    ],
)
def test_operators_are_registered_soundly(operator: str, arguments: tuple[object, ...]) -> None:
    result = torch.library.opcheck(getattr(OPERATORS, operator), arguments, test_utils=CHECKS)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fft_conv_works_in_float32_for_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, h = torch.randn(2, 3, 64).to(dtype), torch.randn(2, 64).to(dtype)
    y = fft_conv(u, h)
    assert y.dtype == dtype
    exact = fft_conv(u.double(), h.double())
    # half a unit in the last place of the output, and float32's own error
    assert (y.double() - exact).abs().max() <= exact.abs().max() * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fft_conv(torch.ones(2, 3, 8), torch.ones(2, 7)), r"got \(2, 3, 8\) and \(2, 7\)"),
        (
            lambda: short_conv(torch.ones(1, 5, 2), torch.ones(1, 2, 2), torch.ones(4, 2)),
            r"got \(1, 5, 2\), \(4, 2\) and \(1, 2, 2\)",
        ),
        (
            lambda: short_conv(torch.ones(1, 5, 2), torch.ones(1, 3, 2).half(), torch.ones(4, 2)),
            "past of torch.float32, as the signal, got torch.float16",
        ),
        (
            lambda: short_conv(
                torch.ones(1, 3, 2), torch.ones(1, 3, 2), torch.ones(4, 2), torch.ones(1, 2)
            ),
            r"expected reach \(1, 3\), got \(1, 2\)",
        ),
        (
            lambda: state_scan(torch.ones(1, 2, 3), torch.ones(1, 2, 3, 4), torch.ones(1, 3, 5)),
            r"got \(1, 2, 3\), \(1, 2, 3, 4\), \(1, 3, 5\)",
        ),
        (
            lambda: linear_cross_entropy(torch.ones(2, 3), torch.ones(5, 4), torch.ones(2)),
            r"got \(2, 3\), \(5, 4\), \(2,\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
