"""How DeepSpeed is started, on a GPU or without one."""

import logging
import warnings
from typing import Any

import torch


def start_deepspeed() -> Any:
    """The `deepspeed` module, on the process group that there is already.

    It may be called again.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # torch's own rename, in calls that DeepSpeed makes
    warnings.filterwarnings("ignore", message=".*_tensor. is deprecated", category=FutureWarning)
    # Without this, DeepSpeed compiles a shared-memory extension for minutes on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # it keeps the layout of an earlier engine of this process
    deepspeed.utils.groups.mpu = None
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        dist_init_required=False,
    )
    return deepspeed
