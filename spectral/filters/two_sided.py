"""Two-sided filters, for bidirectional models.

Shape letters: B batch, D channels, T time (tokens).
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.filters.build import build_filter
from spectral.gates.losses import GateLosses, mean_losses
from spectral.layout import SINGLE_DEVICE, Layout


class TwoSidedFilter(nn.Module):
    """Sum of a filter over the past and a separate one over the future."""

    def __init__(self, config: ModelConfig, num_heads: int, num_channels: int):
        super().__init__()
        self.past = build_filter(config, num_heads, num_channels)
        self.future = build_filter(config, num_heads, num_channels)

    def reset_parameters(self) -> None:
        """Initialise from the global random state."""
        self.past.reset_parameters()
        self.future.reset_parameters()

    def forward(
        self, u_BDT: Tensor, layout: Layout = SINGLE_DEVICE
    ) -> tuple[Tensor, GateLosses | None]:
        """(y_BDT, losses of the gates) of rows of one document each."""
        y_BDT, _, losses = self.past(u_BDT, layout=layout)
        reverse_BDT, _, reverse_losses = self.future(u_BDT.flip(-1), layout=layout)
        both = mean_losses([(losses, 0.5), (reverse_losses, 0.5)])
        return y_BDT + reverse_BDT.flip(-1), both
