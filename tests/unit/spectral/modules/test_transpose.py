"""Transposed signals."""

import torch

from spectral.modules.transpose import channels_first, time_first


def test_signals_are_transposed_and_their_gradients_back() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(channels_first(x), x.transpose(1, 2))
    torch.testing.assert_close(time_first(x), x.transpose(1, 2))
    for swap in (channels_first, time_first):
        assert torch.autograd.gradcheck(swap, (x,))
        assert torch.autograd.gradgradcheck(swap, (x,))
        # of signals that lie in memory in another order
        assert torch.autograd.gradcheck(lambda x, swap=swap: swap(x.transpose(0, 2)), (x,))
