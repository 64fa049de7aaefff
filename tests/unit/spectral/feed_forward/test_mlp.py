"""The feed-forward in the frequency domain."""

import torch

from spectral.feed_forward.mlp import FrequencyFeedForward


def test_frequency_feed_forward_blends_its_two_paths() -> None:
    torch.manual_seed(0)
    layer, x = FrequencyFeedForward(dim=10, hidden=16).double(), torch.randn(2, 3, 10).double()
    with torch.no_grad():
        layer.blend.fill_(-100.0)
        torch.testing.assert_close(layer(x), layer.gated(x))
        layer.blend.fill_(100.0)
        # identity, GELU, identity
        layer.filters_2F2.zero_()
        layer.filters_2F2[..., 0] = 1.0
        torch.testing.assert_close(layer(x), torch.nn.functional.gelu(x))
