"""One layer: sequence mixing, then a feed-forward, each behind a norm.

Shape letters: B batch, T time (tokens), D channels.
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.feed_forward.build import build_feed_forward
from spectral.mixers.build import State, build_mixer
from spectral.mixers.context import SequenceContext


class Block(nn.Module):
    """Pre-norm residual block: x + mixer(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config = config
        self.mixer_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = build_mixer(config, layer)
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = build_feed_forward(config)
        # 1 / sqrt(fan-in), and each residual branch smaller by the root of how many there are
        branches = 2 * config.num_layers
        self._mixer_std = config.dim**-0.5, (config.dim * branches) ** -0.5
        self._feed_forward_std = config.dim**-0.5, (config.ffn_dim * branches) ** -0.5

    def reset_parameters(self) -> None:
        """Initialise everything from the global random state."""
        self.mixer_norm.reset_parameters()
        self.mixer.reset_parameters(*self._mixer_std)
        self.feed_forward_norm.reset_parameters()
        self.feed_forward.reset_parameters(*self._feed_forward_std)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: State | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        """Whole sequence; returns the output, the memory after it, and weighted auxiliary losses.

        These are the gates' and the router's; None if there are neither.
        """
        y_BTD, state, gates = self.mixer(self.mixer_norm(x_BTD), context, state)
        x_BTD = x_BTD + y_BTD
        y_BTD, auxiliary = self._feed(x_BTD)
        if gates is not None:
            weighted = self.config.entropy_weight * gates.entropy
            weighted = weighted + self.config.consistency_weight * gates.consistency
            auxiliary = weighted if auxiliary is None else auxiliary + weighted
        return x_BTD + y_BTD, state, auxiliary

    def step(self, x_BD: Tensor, context: SequenceContext, state: State) -> tuple[Tensor, State]:
        """One token; equal to `forward` on the whole sequence."""
        y_BD, state = self.mixer.step(self.mixer_norm(x_BD), context, state)
        x_BD = x_BD + y_BD
        return x_BD + self._feed(x_BD)[0], state

    def _feed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Norm and feed-forward; its router's weighted losses, if it has one."""
        x = self.feed_forward_norm(x)
        if self.config.feed_forward != "experts":
            return self.feed_forward(x), None
        y, balance, router_z = self.feed_forward(x)
        config = self.config
        return y, config.balance_weight * balance + config.router_z_weight * router_z
