"""The modal filter: three forms, one result; causal; documents apart; precise at any position."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.filters.modal import ModalFilter
from spectral.sequence.documents import chunk_documents


def _filter(D: int = 3, M: int = 4, chunk: int = 16, tau: float = 1e4) -> ModalFilter:
    torch.manual_seed(1)
    return ModalFilter(D, M, chunk, tau)


def _recurrent(module: ModalFilter, u_BDT: torch.Tensor) -> torch.Tensor:
    dtype = torch.complex64 if u_BDT.dtype == torch.float32 else torch.complex128
    state = torch.zeros(*u_BDT.shape[:2], module.num_modes, dtype=dtype)
    outputs = []
    for t in range(u_BDT.shape[2]):
        y, state = module.step(u_BDT[..., t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=-1)


@settings(deadline=None, max_examples=30)
@given(T=st.integers(1, 100), chunk=st.integers(1, 40))
def test_three_forms_are_equal(T: int, chunk: int) -> None:
    module = _filter(chunk=chunk).double()
    u = torch.randn(2, 3, T, dtype=torch.float64)
    direct = module.direct(u)
    chunked, state, _ = module(u)
    torch.testing.assert_close(chunked, direct)
    torch.testing.assert_close(_recurrent(module, u), direct)
    # the state goes on exactly where the sequence ended, wherever in a chunk that was
    more = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        module(more, state_BDM=state)[0], module.direct(torch.cat([u, more], dim=-1))[..., T:]
    )


@pytest.mark.parametrize("T", [1, 1000, 4095, 8192])
def test_float32_is_within_1e_5_of_a_float64_reference(T: int) -> None:
    module = _filter(chunk=256, tau=204_800.0)
    u = torch.randn(1, 3, T)
    exact = module.double().direct(u.double())
    assert _error(module.float()(u)[0], exact) < 1e-5
    if T <= 1_000:
        assert _error(_recurrent(module, u), exact) < 1e-5


def test_float32_is_within_1e_5_of_a_float64_reference_at_200k_tokens() -> None:
    T = 204_800
    module = _filter(D=2, M=16, chunk=64, tau=float(T)).double().eval()
    u = torch.randn(1, 2, T)
    with torch.no_grad():
        taps = module.taps(module.powers(0, T))
        spectrum = torch.fft.rfft(u.double(), n=2 * T) * torch.fft.rfft(taps, n=2 * T)
        exact = torch.fft.irfft(spectrum, n=2 * T)[..., :T] + module.skip[:, None] * u
        module.float()
        assert _error(module(u)[0], exact) < 1e-5
        assert _error(_recurrent(module, u), exact) < 1e-5


def test_a_decay_that_is_kept_follows_its_parameters() -> None:
    module = _filter().eval()
    with torch.no_grad():
        before = module.decay()
        assert module.decay() is before
        module.log_decay.add_(1.0)
        torch.testing.assert_close(module.decay(), module.log_lambda().exp())
        # as optimizers write, past autograd's count of versions
        module.train()
        module.log_decay.data.add_(1.0)
        module.eval()
        torch.testing.assert_close(module.decay(), module.log_lambda().exp())


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).detach().abs().max() / exact.detach().abs().max())


def test_powers_keep_their_precision_at_200k_tokens() -> None:
    module = _filter(tau=1e9)
    table = module.powers(204_700, 100)
    exponent = torch.complex(-module.log_decay.double().exp(), module.frequency.double())
    exact = torch.exp(exponent[..., None] * torch.arange(204_700, 204_800))
    assert (table - exact).abs().max() < 1e-6


def _integers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-5, 6, shape, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(T=st.integers(1, 70), chunk=st.integers(1, 33), data=st.data())
def test_integer_oracle_with_documents(T: int, chunk: int, data: st.DataObject) -> None:
    """FFT rounding mixes positions, so exactness is shown on integers.

    lambda = +1 or -1 or +-i makes every tap an integer; rounding the float64 FFT then gives the
    direct product exactly, for every chunk length and every place of document borders.
    """
    borders = data.draw(st.sets(st.integers(1, max(1, T - 1)), max_size=6))
    segments = torch.zeros(1, T, dtype=torch.long)
    for border in borders:
        segments[:, border:] += 1
    module = _filter(D=2, M=4, chunk=chunk).double()
    with torch.no_grad():
        module.log_decay.fill_(-math.inf)  # alpha = 0: nothing ever fades, so every leak shows
        quarter_turns = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
        module.frequency.copy_(quarter_turns * math.pi / 2)
        module.residue.copy_(_integers((2, 4, 2), seed=T))
        module.skip.copy_(_integers((2,), seed=chunk))
    u = _integers((1, 2, T), seed=T + chunk)
    y, _, _ = module(u, chunk_documents(segments, min(chunk, T)))
    h = module.taps(module.powers(0, T)).round()
    for t in range(T):
        expected = module.skip * u[0, :, t]
        for s in range(t + 1):
            if segments[0, s] == segments[0, t]:
                expected = expected + h[:, t - s] * u[0, :, s]
        assert torch.equal(y[0, :, t].round(), expected)


def test_time_constants_reach_from_one_token_to_the_maximum() -> None:
    module = _filter(M=8, tau=204_800.0)
    tau = 1.0 / module.log_decay.detach().exp()
    assert tau.min() == pytest.approx(1.0)
    assert tau.max() == pytest.approx(204_800.0, rel=1e-4)


def test_parameters_may_lie_at_any_offset() -> None:
    """ZeRO lays all parameters end to end: a pair of reals may begin at an odd place."""
    module, u = _filter(), torch.randn(1, 3, 20)
    expected = module(u)[0]
    flat = torch.zeros(module.residue.numel() + 1)
    flat[1:] = module.residue.detach().flatten()
    module.residue.data = flat[1:].view_as(module.residue)
    torch.testing.assert_close(module(u)[0], expected)
