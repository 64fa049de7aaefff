"""The ranks of a run: who they are, and decisions that all of them take together."""

import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


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


def init_ranks() -> Ranks:
    """Join the process group that torchrun describes in the environment, or make one of one rank.

    nccl between GPUs, gloo otherwise.
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
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]  # torch exports it without saying so
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def summed(values: list[float | Tensor], device: torch.device) -> list[float]:
    """Sum a few numbers over all ranks, in float64: every rank gets the same result, bit by bit."""
    total = torch.stack(
        [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
    )
    dist.all_reduce(total)
    return total.tolist()
