"""Random numbers that do not depend on the layout: a seed for every micro-batch and layer."""

from typing import cast

import torch

from data_pipeline.stream.order import hash_integers
from spectral.layout import LayerRng
from spectral.lm import SpectralLM


class SeededLayerRng(LayerRng):
    """Seeds each block before it runs.

    Attributes:
        seed: Seed of the micro-batch.
    """

    def __init__(self, first_layer: int):
        self.seed, self._first_layer = 0, first_layer

    def start_layer(self, layer: int) -> None:
        """Seed the global random state for a block of this rank."""
        torch.manual_seed(hash_integers(self.seed, self._first_layer + layer))


def seed_micro_batch(model: SpectralLM, seed: int) -> None:
    """Seed the random numbers of a model that has a rank's layout."""
    cast(SeededLayerRng, model.layout.rng).seed = seed
