"""The kinds of feed-forward layers by name."""

from spectral.config import ModelConfig
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import FrequencyFeedForward, GatedFeedForward

FeedForward = GatedFeedForward | FrequencyFeedForward | ExpertsFeedForward


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """The feed-forward of every block."""
    if config.feed_forward == "experts":
        return ExpertsFeedForward(
            config.dim, config.ffn_dim, config.num_experts, config.experts_per_token
        )
    kind = FrequencyFeedForward if config.feed_forward == "frequency" else GatedFeedForward
    return kind(config.dim, config.ffn_dim)
