"""Start of DeepSpeed, with or without a GPU."""

import logging
import warnings
from typing import Any

import torch


def start_deepspeed() -> Any:
    """The `deepspeed` module, initialised on the existing process group.

    May be called repeatedly.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls functions that torch has renamed
    warnings.filterwarnings("ignore", message=".*_tensor. is deprecated", category=FutureWarning)
    # otherwise DeepSpeed compiles a shared-memory extension for minutes on a CPU
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed would keep the layout of an earlier engine of this process
    deepspeed.utils.groups.mpu = None
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        dist_init_required=False,
    )
    return deepspeed
