"""Real processes with real collectives: gloo, a file for rendezvous, no ports."""

import os
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests import processes


def run_ranks(
    function: Callable[..., None],
    world_size: int,
    folder: Path,
    *arguments: Any,
    fresh: bool = False,
) -> None:
    """Call function(rank, *arguments) in `world_size` new processes that share a gloo group.

    Args:
        function: Importable by name; results go into files.
        world_size: Number of processes.
        folder: For the rendezvous file.
        arguments: Picklable.
        fresh: Import everything again in each process, instead of forking one that has done so.

    Raises:
        ProcessRaisedException: A rank failed; carries its traceback.
    """
    rendezvous = folder / f"rendezvous-{uuid.uuid4().hex}"
    context = mp.start_processes(
        _rank,
        (world_size, str(rendezvous), dict(os.environ), function, arguments),
        nprocs=world_size,
        join=False,
        start_method="spawn" if fresh else processes.CONTEXT.get_start_method(),
    )
    try:
        while not context.join():
            pass
    finally:
        # a test that ran out of time leaves nobody behind
        for process in context.processes:
            process.kill()


def _rank(
    rank: int,
    world_size: int,
    rendezvous: str,
    environment: dict[str, str],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    processes.enter(environment | {"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
    )
    try:
        function(rank, *arguments)
    except BaseException:
        # the parent shows one rank's error; this one may be the cause
        traceback.print_exc()
        raise
    finally:
        # `resonance pretrain` ends with it
        if dist.is_initialized():
            dist.destroy_process_group()
