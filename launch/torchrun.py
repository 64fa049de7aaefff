"""Command that starts the ranks of one machine, the same for every launcher."""

import os
from collections.abc import Sequence
from pathlib import PurePath

# exit status of ranks that saved after a request to stop: requeue the run, and start it again with
# --auto-resume
REQUEUE_STATUS = os.EX_TEMPFAIL
# exit status of ranks that would fail the same way again: no restart by torchrun or a cluster
GIVE_UP_STATUS = os.EX_CONFIG
# exit status of ranks that lost contact with another rank: their own machine is not the cause
LOST_CONTACT_STATUS = os.EX_UNAVAILABLE
# variable with the file in which `pretrain.runtime.torchrun_agent` records machines of failed ranks
FAILURE_LOG = "RESONANCE_FAILURE_LOG"
# variable with the process number of the launcher of this machine's ranks
LAUNCHER_PID = "RESONANCE_LAUNCHER_PID"


def torchrun_command(
    python: str,
    rendezvous: Sequence[str],
    run_file: PurePath,
    *,
    processes: int | str,
    max_restarts: int,
    arguments: Sequence[str] = (),
) -> list[str]:
    """The torchrun command of one machine, with `resonance pretrain` in every rank.

    Args:
        python: Python interpreter on the machine.
        rendezvous: Arguments by which torchrun finds the other machines.
        run_file: Path of the run file on the machine.
        processes: Number of ranks on the machine.
        max_restarts: Number of restarts after which torchrun gives up.
        arguments: Further arguments of `resonance pretrain`.
    """
    return [
        python,
        "-m",
        "pretrain.runtime.torchrun_agent",
        *rendezvous,
        f"--nproc-per-node={processes}",
        f"--max-restarts={max_restarts}",
        "--module",
        "pretrain.cli",
        "pretrain",
        str(run_file),
        *arguments,
    ]
