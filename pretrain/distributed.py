"""The ranks of a run: who they are, and decisions that all of them take together."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.errors import DataError
from pretrain.errors import RunError

T = TypeVar("T")
DEFAULT_TIMEOUT_S = 1800.0


class Ranks(NamedTuple):
    """This process among the others.

    Attributes:
        rank: Its number.
        world_size: How many there are.
        device: Where it computes.
    """

    rank: int
    world_size: int
    device: torch.device


def init_ranks(timeout_s: float = DEFAULT_TIMEOUT_S) -> Ranks:
    """Join the process group that torchrun describes in the environment, or make one of one rank.

    nccl between GPUs, gloo otherwise.

    Args:
        timeout_s: Longest wait of a collective for the other ranks.
    """
    # DeepSpeed asks for it even where torchrun did not start this process
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device("cpu")
    if not dist.is_initialized():
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=timeout_s)
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]  # torch exports it without saying so
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def gathered(values: list[float | Tensor], device: torch.device) -> list[list[float]]:
    """A few numbers of every rank, in float64, by rank: every rank gets the same."""
    own = torch.stack(
        [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
    )
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return torch.stack(rows).tolist()


def summed(values: list[float | Tensor], device: torch.device) -> list[float]:
    """Sum a few numbers over all ranks, in float64: every rank gets the same result, bit by bit."""
    return [sum(column) for column in zip(*gathered(values, device), strict=True)]


def gathered_objects(value: T) -> list[T]:
    """A small picklable value of every rank, by rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def decided_by_rank_0(decide: Callable[[], T]) -> T:
    """Call a function on rank 0 alone; every rank gets its result, or raises its error.

    Raises:
        RunError: Of rank 0, on all ranks together.
    """
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = decide()
        except (RunError, DataError) as error:
            outcome[1] = error if isinstance(error, RunError) else RunError(str(error))
    dist.broadcast_object_list(outcome)
    result, problem = outcome
    if problem is not None:
        raise agreed(problem)
    return result


def agreed(error: RunError) -> RunError:
    """Mark an error as one that all ranks raise together."""
    error.agreed = True
    return error
