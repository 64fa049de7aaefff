"""Failure messages: one per failure, from the rank that failed."""

import re
import sys
import traceback
from pathlib import Path

import torch.distributed as dist

from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from data_pipeline.stream.loader import reader_failure
from launch.torchrun import GIVE_UP_STATUS
from pretrain.errors import LostContactError, RunError
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import Ranks

# messages of gloo and nccl when the process at the other end is gone
LOST_CONTACT = re.compile(r"gloo/|NCCL|[Cc]onnection (was )?(closed|reset|refused)|Broken pipe")


def failure_of_rank(
    error: Exception, ranks: Ranks, heartbeat: Heartbeat, directory: Path
) -> Exception:
    """The error to be raised in place of a rank's error.

    If all ranks raise the error together, rank 0 alone reports it and the others exit. An internal
    error is reported in one line, and its traceback is written to a file.

    Args:
        error: The error of this rank.
        ranks: This process and the number of ranks.
        heartbeat: Gives the phase in which the rank failed.
        directory: The run directory.
    """
    if isinstance(error, RunError) and error.agreed:
        if dist.is_torchelastic_launched():
            # a retry would fail the same way: tell torchrun and the cluster not to restart
            error.status = GIVE_UP_STATUS
        if ranks.rank == 0:
            return error
        sys.exit(error.status)
    name = f"rank {ranks.rank} of {ranks.world_size}"
    if isinstance(error, RunError | DataError | OSError) and not isinstance(error, ConnectionError):
        return error if ranks.world_size == 1 else RunError(f"{name}: {error}")
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        # torch raises this for a dead reader process at any place in the code
        return RunError(f"{name}: {reader_failure(error)}")
    where = f"{name}, {heartbeat.phase}"
    # some torch errors have a C++ stack in further lines
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, dist.DistError) or LOST_CONTACT.search(text):
        return LostContactError(f"{where}: lost contact with another rank ({text})")
    compiler = sys.modules.get("torch._dynamo.exc")
    if compiler is not None and isinstance(error, compiler.TorchDynamoException):
        text = f"{text} (torch.compile failed; train.compile = false does without it)"
    # an error of a library may name a URL with its credentials
    report = redact("".join(traceback.format_exception(error)))
    file = directory / "errors" / f"rank-{ranks.rank:05d}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report, encoding="utf-8")
    except OSError as refused:
        print(report, file=sys.stderr)
        return RunError(f"{where}: {type(error).__name__}: {text} ({refused})")
    return RunError(f"{where}: {type(error).__name__}: {text}; traceback in {file}")
