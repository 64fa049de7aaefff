"""Short causal convolution on the projections: a few taps per channel, local n-gram features.

Shape letters: B batch, D channel, T time (tokens), W taps.
"""

import torch
from torch import Tensor, nn

from kernels.short_conv.op import short_conv


class ShortConv(nn.Module):
    """Depthwise causal convolution of W taps, time-major: y[t] = sum_w taps[w] x[t - w].

    Source: the "shift" convolutions of H3 and Hyena (arXiv 2212.14052, 2302.10866).
    """

    def __init__(self, num_channels: int, width: int):
        super().__init__()
        self.width = width
        self.taps = nn.Parameter(torch.empty(width, num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise near the identity, with small random taps on the past."""
        with torch.no_grad():
            self.taps.normal_(std=0.5 / self.width)
            self.taps[0] += 1.0

    def forward(
        self,
        x_BTD: Tensor,
        segment_ids_BT: Tensor | None = None,
        past_BWD: Tensor | None = None,
        before_BW: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Causal convolution; taps that reach into another document read zero.

        Args:
            x_BTD: Signal.
            segment_ids_BT: Document number of each token.
            past_BWD: The W - 1 inputs before this sequence (zeros if None).
            before_BW: Document numbers of at least those inputs; the first document's if None.

        Returns:
            (y_BTD, the last W - 1 inputs, zero where their document has ended).
        """
        T, pad = x_BTD.shape[1], self.width - 1
        if past_BWD is None:
            past_BWD = x_BTD.new_zeros(x_BTD.shape[0], pad, x_BTD.shape[2])
        past_BWD = past_BWD.to(x_BTD.dtype)
        last_BWD = torch.cat([past_BWD, x_BTD[:, max(T - pad, 0) :]], dim=1)[:, min(T, pad) :]
        if segment_ids_BT is None:
            return short_conv(x_BTD, past_BWD, self.taps), last_BWD
        if before_BW is None:
            before_BW = segment_ids_BT[:, :1].expand(-1, pad)
        segment_BS = torch.cat([before_BW[:, before_BW.shape[1] - pad :], segment_ids_BT], dim=1)
        # ids never fall along a row, so the tokens of the same document are the latest ones
        same_BTW = segment_BS.unfold(1, self.width, 1)[..., :pad] == segment_ids_BT[..., None]
        same_BW1 = (segment_BS[:, T:] == segment_ids_BT[:, -1:])[..., None]
        y_BTD = short_conv(x_BTD, past_BWD, self.taps, same_BTW.sum(-1))
        return y_BTD, last_BWD * same_BW1

    def step(self, x_BD: Tensor, past_BWD: Tensor) -> tuple[Tensor, Tensor]:
        """Recurrent form: one token."""
        window_BWD = torch.cat([past_BWD, x_BD[:, None]], dim=1)
        return (window_BWD * self.taps.flip(0)).sum(1), window_BWD[:, 1:]
