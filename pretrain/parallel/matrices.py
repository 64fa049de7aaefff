"""Matrices of a model: the maps that Muon orthogonalises, each by itself.

A weight may fuse several maps: the queries, keys, values and gate of a mixer, gate and input of a
feed-forward, the experts of a layer. Embeddings, norms, filters, modes and gates are no matrices
here, nor are maps to a number per head or per expert, whose rows are separate scalars.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

from pretrain.config import RunConfig
from pretrain.parallel.split_model import empty_model
from spectral.config import ModelConfig
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import GatedFeedForward
from spectral.lm import SpectralLM
from spectral.mixers.base import SequenceMixer

# offsets and sizes of a map in a weight
Place = tuple[tuple[int, ...], tuple[int, ...]]


def matrix_blocks(config: ModelConfig) -> dict[str, int]:
    """For the name of every weight with matrices, the maps that are stacked along its rows."""
    return _blocks_of(empty_model(config))


def _blocks_of(model: SpectralLM) -> dict[str, int]:
    blocks: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, SequenceMixer):
            blocks |= {f"{name}.in_proj.weight": 4, f"{name}.out_proj.weight": 1}
        elif isinstance(module, GatedFeedForward | ExpertsFeedForward):
            blocks |= {f"{name}.gate_up_proj.weight": 2, f"{name}.down_proj.weight": 1}
    return blocks


def width_maps(config: ModelConfig) -> set[str]:
    """Names of the weights whose number of inputs grows with the width of the model."""
    model = empty_model(config)
    names = set(_blocks_of(model))
    for name, module in model.named_modules():
        if isinstance(module, SequenceMixer):
            names |= {f"{name}.{projection}.weight" for projection in module.per_head_projections}
        elif isinstance(module, ExpertsFeedForward):
            names.add(f"{name}.router.weight")
    return names


def map_places(shape: tuple[int, ...], blocks: int) -> Iterator[Place]:
    """Places of the maps in a weight [..., rows, columns], in their order."""
    *stack, rows, columns = shape
    height = rows // blocks
    for index in itertools.product(*map(range, stack)):
        for block in range(blocks):
            yield (*index, block * height, 0), (*(1 for _ in stack), height, columns)


def state_names(run: RunConfig) -> Callable[[str], tuple[str, ...]]:
    """Function from a parameter's name to the names of the state tensors kept for it."""
    matrices = matrix_blocks(run.model)
    return lambda name: run.optim.state_tensors(is_matrix=name in matrices)


def state_tensors_per_number(run: RunConfig) -> float:
    """Numbers of the optimizer's state for one number of the model, on average."""
    return _mean_state(run.model, *(run.optim.state_tensors(is_matrix=x) for x in (True, False)))


@functools.cache
def _mean_state(
    config: ModelConfig, of_matrix: tuple[str, ...], of_other: tuple[str, ...]
) -> float:
    model = empty_model(config)
    matrices = _blocks_of(model)
    sizes = {name: math.prod(p.shape) for name, p in model.named_parameters()}
    in_matrices = sum(size for name, size in sizes.items() if name in matrices)
    total = sum(sizes.values())
    return (len(of_matrix) * in_matrices + len(of_other) * (total - in_matrices)) / total
