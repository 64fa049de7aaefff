"""One layer: sequence mixing, then a feed-forward, each behind a norm.

Shape letters: B batch, T time (tokens), D channels.
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import FrequencyFeedForward, GatedFeedForward
from spectral.layout import Layout
from spectral.mixers.base import MixerState
from spectral.mixers.build import build_mixer
from spectral.mixers.context import SequenceContext

FeedForward = GatedFeedForward | FrequencyFeedForward | ExpertsFeedForward


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """The feed-forward of every block."""
    if config.feed_forward == "experts":
        return ExpertsFeedForward(config.dim, config.ffn_dim, config.experts)
    kind = FrequencyFeedForward if config.feed_forward == "frequency" else GatedFeedForward
    return kind(config.dim, config.ffn_dim)


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
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        """Whole sequence.

        Returns:
            (x_BTD, state after the last token, weighted auxiliary losses of gates and router; None
            if there are neither).
        """
        y_BTD, state, gates = self.mixer(self.mixer_norm(x_BTD), context, state)
        x_BTD = x_BTD + y_BTD
        y_BTD, auxiliary = self._feed(x_BTD, context.layout)
        if gates is not None:
            weighted = self.config.gates.entropy_weight * gates.entropy
            weighted = weighted + self.config.gates.consistency_weight * gates.consistency
            auxiliary = weighted if auxiliary is None else auxiliary + weighted
        return x_BTD + y_BTD, state, auxiliary

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """One token; equal to `forward` on the whole sequence."""
        y_BD, state = self.mixer.step(self.mixer_norm(x_BD), context, state)
        x_BD = x_BD + y_BD
        return x_BD + self._feed(x_BD, context.layout)[0], state

    def _feed(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Norm and feed-forward; the router's weighted losses, if there is one."""
        x = self.feed_forward_norm(x)
        if self.config.feed_forward == "experts":
            y, losses = self.feed_forward(x, layout)
            return y, losses
        return self.feed_forward(x), None
