"""The reference ops against their definitions: convolutions, the scan over chunks, the loss."""

import pytest
import torch

from kernels.fft_conv.op import fft_conv
from kernels.linear_cross_entropy.op import linear_cross_entropy
from kernels.linear_cross_entropy.reference import BLOCK
from kernels.matrix_scan.op import matrix_scan
from kernels.op_info import randn
from kernels.short_conv.op import short_conv
from kernels.state_scan.op import state_scan


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


def test_matrix_scan_equals_its_recurrence() -> None:
    torch.manual_seed(0)
    transition, update, state = randn(2, 5, 3, 4, 4), randn(2, 5, 3, 4, 2), randn(2, 3, 4, 2)
    incoming, final = matrix_scan(transition, update, state)
    for j in range(5):
        torch.testing.assert_close(incoming[:, j], state)
        state = torch.einsum("bhkl,bhlv->bhkv", transition[:, j], state) + update[:, j]
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
    x, weight = randn(BLOCK + 9, 8), randn(30, 8)
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


def test_a_z_loss_adds_its_gradient_and_leaves_the_value() -> None:
    torch.manual_seed(0)
    x, weight = randn(BLOCK + 9, 8), randn(30, 8)
    labels = torch.randint(30, (BLOCK + 9,))
    labels[[0, 5, BLOCK + 3]] = -100
    loss = linear_cross_entropy(x, weight, labels, 0.1)
    logits = x @ weight.t()
    likelihoods = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, likelihoods)
    z_loss = 0.1 * logits.logsumexp(-1)[labels != -100].square().sum()
    assert z_loss.item() > 0.1 * likelihoods.item()
    ours = torch.autograd.grad(3.0 * loss, (x, weight))
    theirs = torch.autograd.grad(3.0 * (likelihoods + z_loss), (x, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


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
            lambda: matrix_scan(
                torch.ones(1, 2, 3, 4, 4), torch.ones(1, 2, 3, 4, 5), torch.ones(1, 3, 5, 4)
            ),
            r"got \(1, 2, 3, 4, 4\), \(1, 2, 3, 4, 5\), \(1, 3, 5, 4\)",
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
