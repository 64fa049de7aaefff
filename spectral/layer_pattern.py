"""Repeating pattern of mixers and heads over the layers (imports no torch)."""

import math
from collections.abc import Sequence
from typing import Protocol


class LayerPattern(Protocol):
    """Keys of the pattern in a model's configuration, here or in an exported folder."""

    @property
    def num_heads(self) -> int:
        """Number of heads of every layer."""

    @property
    def mixers(self) -> Sequence[str]:
        """Mixer of each layer, repeated."""

    @property
    def conv_heads(self) -> Sequence[int]:
        """Convolution heads of each layer of heads, repeated; empty: layers alternate."""


def head_mixture(config: LayerPattern) -> Sequence[int]:
    """Convolution heads of each layer of heads, repeated over these layers."""
    return config.conv_heads or (config.num_heads, 0)


def num_conv_heads(config: LayerPattern, layer: int) -> int:
    """Convolution heads of a layer; layers of other mixers do not advance `conv_heads`."""
    periods, offset = divmod(layer, len(config.mixers))
    before = periods * config.mixers.count("heads") + config.mixers[:offset].count("heads")
    mixture = head_mixture(config)
    return mixture[before % len(mixture)]


def layer_period(config: LayerPattern) -> int:
    """Number of layers after which the pattern repeats."""
    with_heads = config.mixers.count("heads")
    if not with_heads:
        return len(config.mixers)
    return len(config.mixers) * math.lcm(with_heads, len(head_mixture(config))) // with_heads
