"""The ranks of a run: process group, small collectives, and decisions of all ranks."""

import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

# torch exports these names without declaring it
from torch.distributed import (  # type: ignore[attr-defined]
    HashStore,
    PrefixStore,
    Store,
    rendezvous,
)

from data_pipeline.errors import DataError
from pretrain.errors import LostContactError, RunError
from pretrain.runtime.malloc import return_freed_memory

T = TypeVar("T")
DEFAULT_TIMEOUT_S = 1800.0


class Ranks(NamedTuple):
    """This process and the number of ranks.

    Attributes:
        rank: Number of this process.
        world_size: Number of ranks.
        device: Device of this rank.
    """

    rank: int
    world_size: int
    device: torch.device


def init_ranks(timeout_s: float = DEFAULT_TIMEOUT_S) -> Ranks:
    """Join the process group that torchrun describes in the environment, or a group of one rank.

    The backend is nccl between GPUs and gloo otherwise.

    Args:
        timeout_s: Longest wait of a collective for the other ranks.

    Returns:
        This process's rank, the number of ranks and the device.

    Raises:
        LostContactError: The other ranks cannot be reached.
    """
    # DeepSpeed requires it even if torchrun did not start this process
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device("cpu")
        return_freed_memory()
        # otherwise DeepSpeed searches for other devices and reports that there are none
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not dist.is_initialized():
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=timeout_s)
        try:
            store, rank, world_size = _rendezvous(timeout)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=timeout
            )
        except (dist.DistError, RuntimeError) as error:
            name = f"rank {os.environ.get('RANK', '0')}"
            # some torch errors have a C++ stack in further lines
            text = (str(error).splitlines() or [""])[0]
            raise LostContactError(f"{name}: cannot reach the other ranks: {text}") from error
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _rendezvous(timeout: timedelta) -> tuple[Store, int, int]:
    """A store shared by the ranks of this start, this rank's number, and the number of ranks."""
    if "RANK" not in os.environ:
        return HashStore(), 0, 1
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(_agree_on_prefix(store, rank, world_size), store), rank, world_size


def _agree_on_prefix(store: Store, rank: int, world_size: int) -> str:
    """A name that no earlier start of these ranks has used.

    When torchrun starts ranks again, its store still holds the addresses of processes that are
    gone, and ranks would connect to them. So each rank sends a request under a unique name, and
    rank 0 answers until all live ranks have confirmed the answer.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"request/{rank}", name)
        prefix = store.get(f"answer/{name}").decode()
        store.set(f"{prefix}/confirmed/{rank}", "")
        return prefix
    waiting = set(range(1, world_size))
    while waiting:
        for other in sorted(waiting):
            if store.check([f"{name}/confirmed/{other}"]):
                waiting.remove(other)
            elif store.check([f"request/{other}"]):
                # it may be from a process that is gone; the new process then overwrites it
                store.set(f"answer/{store.get(f'request/{other}').decode()}", name)
        time.sleep(0.01)
    return name


def gathered(values: list[float | Tensor], device: torch.device) -> list[list[float]]:
    """A few numbers of every rank, by rank, in float64; equal on all ranks."""
    local = torch.stack(
        [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
    )
    rows = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, local)
    return torch.stack(rows).tolist()


def summed(values: list[float | Tensor], device: torch.device) -> list[float]:
    """Sums of a few numbers over all ranks, in float64; equal on all ranks, bit by bit."""
    return [sum(column) for column in zip(*gathered(values, device), strict=True)]


def gathered_objects(value: T) -> list[T]:
    """Small picklable values of all ranks, by rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def decided_by_rank_0(decide: Callable[[], T]) -> T:
    """The result of a function that only rank 0 calls, on all ranks; a collective.

    Raises:
        RunError: The error of rank 0, on all ranks together.
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
    """The same error, marked as one that all ranks raise together."""
    error.agreed = True
    return error
