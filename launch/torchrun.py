"""The command that starts the ranks of one machine: the same wherever a run is launched."""

import os
from collections.abc import Sequence
from pathlib import PurePath

# A run's ranks exit with it when they were asked to stop and have saved: put the run back into the
# queue, and start it again with --auto-resume.
REQUEUE_STATUS = os.EX_TEMPFAIL
# And with this one when it is no use to start again: not by torchrun, not by a cluster.
GIVE_UP_STATUS = os.EX_CONFIG
# And with this one when another rank is gone: their own machine is not to blame.
LOST_CONTACT_STATUS = os.EX_UNAVAILABLE
# Names the file in which `pretrain.runtime.torchrun_agent` notes the machine whose rank failed.
FAILURE_LOG = "RESONANCE_FAILURE_LOG"


def torchrun_command(
    python: str,
    rendezvous: Sequence[str],
    run_file: PurePath,
    *,
    processes: int | str,
    max_restarts: int,
    arguments: Sequence[str] = (),
) -> list[str]:
    """torchrun on one machine, running `resonance pretrain` in every rank.

    Args:
        python: The interpreter there.
        rendezvous: torchrun's arguments that say how machines find each other.
        run_file: The run as the machine sees it.
        processes: Ranks on the machine.
        max_restarts: Failures of a rank after which torchrun gives up.
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
