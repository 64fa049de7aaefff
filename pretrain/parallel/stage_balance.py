"""Pipeline stages balanced by the time of their layers, measured on rank 0's device."""

import time

import torch
import torch.distributed as dist
from deepspeed.runtime.utils import partition_balanced
from torch import nn

from pretrain.config import RunConfig
from pretrain.parallel.mesh import Mesh
from spectral.layer_pattern import layer_period
from spectral.models import model_class

# enough for the work on tokens to outweigh the overhead of launches
TOKENS = 2048


def stage_bounds(run: RunConfig, mesh: Mesh) -> list[int]:
    """First block of each stage, and one past the last block; a collective.

    Every stage has at least one block. Embedding and loss count for the last stage.
    """
    outcome: list[list[int]] = [[]]
    if dist.get_rank() == 0:
        outcome = [balanced(layer_costs(run), mesh.pipeline.size)]
    dist.broadcast_object_list(outcome)
    return outcome[0]


def balanced(costs: list[float], stages: int) -> list[int]:
    """Bounds of `stages` consecutive groups, the most expensive as cheap as possible."""
    # in integers: DeepSpeed searches by bisection
    bounds = partition_balanced([max(1, round(cost * 1e6)) for cost in costs], stages)
    for stage in range(1, stages):
        bounds[stage] = max(bounds[stage], bounds[stage - 1] + 1)
    for stage in reversed(range(1, stages)):
        bounds[stage] = min(bounds[stage], bounds[stage + 1] - 1)
    return [int(bound) for bound in bounds]


def layer_costs(run: RunConfig) -> list[float]:
    """Seconds of a forward and backward pass of each block; the last with embedding and loss.

    Equal blocks are measured once. Only one block exists at a time.
    """
    config = run.model
    length = min(run.data.sequence_length // run.parallel.sequence, TOKENS)
    period = layer_period(config)
    seconds = [_measure(run, layer, length) for layer in range(min(period, config.num_layers))]
    costs = [seconds[layer % period] for layer in range(config.num_layers)]
    ends = _measure(run, None, length)
    # look-ups are cheap compared with three products with the whole table
    costs[-1] += ends
    return costs


def _measure(run: RunConfig, layer: int | None, length: int) -> float:
    """Seconds for one block alone, or for embedding and loss alone."""
    with torch.device("meta"):
        model = model_class(run.model)(run.model)
    model.blocks = nn.ModuleList([] if layer is None else [model.blocks[layer]])
    model.to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    model.reset_parameters()
    device = next(model.parameters()).device
    tokens = torch.zeros(1, length, dtype=torch.long, device=device)
    x = torch.randn(1, length, run.model.dim, device=device, requires_grad=True)
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        if layer is None:
            model(tokens, None, tokens).nll.backward()
        else:
            output, _, auxiliary = model.run_blocks(x, 0, length, None)
            (output.sum() + auxiliary).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best
