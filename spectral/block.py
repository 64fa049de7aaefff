"""Residual block: sequence mixing, then a feed-forward, each behind a norm.

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
from spectral.mixers.fusion import SourceStates, SpectralFusion
from spectral.modules.norm import RMSNorm

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
        self.mixer_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = build_mixer(config, layer)
        self.feed_forward_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = build_feed_forward(config)
        # 1 / sqrt(fan-in); the last maps of residual branches also by 1 / sqrt(number of branches)
        branches = 2 * config.num_layers
        self._mixer_std = config.dim**-0.5, (config.dim * branches) ** -0.5
        self._feed_forward_std = config.dim**-0.5, (config.ffn_dim * branches) ** -0.5

    def reset_parameters(self) -> None:
        """Initialise all parameters from the global random state."""
        self.mixer_norm.reset_parameters()
        self.mixer.reset_parameters(*self._mixer_std)
        self.feed_forward_norm.reset_parameters()
        self.feed_forward.reset_parameters(*self._feed_forward_std)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        """Output of the block for a whole sequence.

        Returns:
            (x_BTD, state after the last token, weighted auxiliary losses of gates and router; None
            if there are neither).
        """
        y_BTD, state, gate_losses = self.mixer(self.mixer_norm(x_BTD), context, state)
        x_BTD = x_BTD + y_BTD
        y_BTD, auxiliary = self._feed(x_BTD, context.layout)
        if gate_losses is not None:
            weighted = self.config.gates.entropy_weight * gate_losses.entropy
            weighted = weighted + self.config.gates.consistency_weight * gate_losses.consistency
            auxiliary = weighted if auxiliary is None else auxiliary + weighted
        return x_BTD + y_BTD, state, auxiliary

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Output of the block for one token; equal to `forward` on the whole sequence."""
        y_BD, state = self.mixer.step(self.mixer_norm(x_BD), context, state)
        x_BD = x_BD + y_BD
        return x_BD + self._feed(x_BD, context.layout)[0], state

    def _feed(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Output of norm and feed-forward, and the router's weighted losses (None without one)."""
        x = self.feed_forward_norm(x)
        if self.config.feed_forward == "experts":
            y, losses = self.feed_forward(x, layout)
            return y, losses
        return self.feed_forward(x), None


class PairBlock(Block):
    """Block of a decoder: it reads the source of a pair, then mixes and feeds forward as others."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.layer = layer
        self.fusion = SpectralFusion(config)

    def reset_parameters(self) -> None:
        """Initialise all parameters from the global random state."""
        super().reset_parameters()
        self.fusion.reset_parameters(*self._mixer_std)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        """Output of the block for a whole sequence, as of `Block`."""
        return super().forward(x_BTD + self._fused(x_BTD, context), context, state)

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Output of the block for one token; equal to `forward` on the whole sequence."""
        return super().step(x_BD + self._fused(x_BD[:, None], context)[:, 0], context, state)

    def _fused(self, x_BTD: Tensor, context: SequenceContext) -> Tensor:
        source = context.source
        if isinstance(source, SourceStates):
            return self.fusion.read(x_BTD, source.layers[self.layer], source.place_BT)
        read: Tensor = self.fusion(x_BTD, source)
        return read
