"""Random numbers that do not depend on the layout: a seed for every micro-batch and layer."""

from typing import Any

import torch
from torch import nn

from data_pipeline.stream.order import hash_integers


class LayerRng:
    """Seeds each block before it runs.

    Attributes:
        seed: Of the micro-batch.
    """

    def __init__(self) -> None:
        self.seed = 0

    def attach(self, block: nn.Module, layer: int) -> None:
        """Seed this block from now on."""

        def seed(_module: nn.Module, _inputs: Any) -> None:
            if block.training:
                torch.manual_seed(hash_integers(self.seed, layer))

        block.register_forward_pre_hook(seed)
