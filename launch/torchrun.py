"""Command that starts the ranks of one machine, the same for every launcher."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path, PurePath

# exit status of ranks that saved after a request to stop: requeue the run, and start it again with
# --auto-resume
REQUEUE_STATUS = os.EX_TEMPFAIL
# exit status of ranks that would fail the same way again: no restart by torchrun or a cluster
GIVE_UP_STATUS = os.EX_CONFIG
# exit status of ranks that lost contact with another rank: their own machine is not the cause
LOST_CONTACT_STATUS = os.EX_UNAVAILABLE
# variable with the file in which `pretrain.runtime.torchrun_agent` records machines of failed ranks
FAILURE_LOG = "RESONANCE_FAILURE_LOG"
# otherwise torchrun announces the address of its store in the first round only, and a machine that
# replaces another one later waits for it until it fails
OWN_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
# variable with the path of the file whose secret signs the rendezvous of several machines
SECRET_FILE = "RESONANCE_RENDEZVOUS_SECRET_FILE"
# option of `pretrain.runtime.torchrun_agent`: name of the variable with this machine's index among
# those of the run; the machine of index 0 hosts the rendezvous
NODE_INDEX = "--node-index-variable"
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


def make_secret() -> str:
    """A new secret for the rendezvous of a job."""
    return secrets.token_hex(32)


def write_secret(path: Path) -> None:
    """Write a new secret into a file that only its owner can read, in place of an earlier one."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(make_secret())
