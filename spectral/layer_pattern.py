"""Which layers have which heads: kinds of layers repeat (imports no torch)."""

import math
from collections.abc import Sequence
from typing import Protocol


class LayerPattern(Protocol):
    """What says it of a model: the configuration here or in an exported folder."""

    @property
    def num_heads(self) -> int:
        """Heads of every layer."""

    @property
    def mixers(self) -> Sequence[str]:
        """Mixer of each layer, repeated."""

    @property
    def conv_heads(self) -> Sequence[int]:
        """Convolution heads of each layer that has heads, repeated; none: layers take turns."""


def head_mixture(config: LayerPattern) -> Sequence[int]:
    """Convolution heads of each layer that has heads, repeated over them."""
    return config.conv_heads or (config.num_heads, 0)


def num_conv_heads(config: LayerPattern, layer: int) -> int:
    """Convolution heads of a layer; layers of other mixers do not count as turns."""
    rounds, rest = divmod(layer, len(config.mixers))
    before = rounds * config.mixers.count("heads") + config.mixers[:rest].count("heads")
    mixture = head_mixture(config)
    return mixture[before % len(mixture)]


def layer_period(config: LayerPattern) -> int:
    """After so many layers their kinds repeat."""
    with_heads = config.mixers.count("heads")
    if not with_heads:
        return len(config.mixers)
    return len(config.mixers) * math.lcm(with_heads, len(head_mixture(config))) // with_heads
