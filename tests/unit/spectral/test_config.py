"""Which layer has which mixer and how many heads of each kind."""

from typing import Any

import pytest
import torch

from spectral.config import ModelConfig
from spectral.layer_pattern import layer_period
from spectral.lm import SpectralLM
from spectral.mixers.heads import HeadsMixer


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, [4, 0]),
        ({"num_heads": 8}, [8, 0]),
        ({"conv_heads": (2,)}, [2]),
        # layers of other mixers do not count as turns: recall heads would never come
        ({"mixers": ("heads", "fft")}, [4, None, 0, None]),
        ({"mixers": ("heads", "fft", "heads")}, [4, None, 0]),
        ({"mixers": ("fft", "heads"), "conv_heads": (4, 2, 0)}, [None, 4, None, 2, None, 0]),
        ({"mixers": ("fft",)}, [None]),
    ],
)
def test_kinds_of_layers_repeat(changes: dict[str, Any], kinds: list[int | None]) -> None:
    config = ModelConfig(dim=32, num_layers=2 * len(kinds), **changes)
    assert layer_period(config) == len(kinds)
    with torch.device("meta"):
        mixers = [block.mixer for block in SpectralLM(config).blocks]
    found = [mixer.head_groups[0] if isinstance(mixer, HeadsMixer) else None for mixer in mixers]
    assert found == 2 * kinds
