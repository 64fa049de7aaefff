"""`resonance pretrain` on one rank: join the other ranks, train, leave them."""

import signal
import time
from pathlib import Path

import torch.distributed as dist

from pretrain.checkpoint.resume import find_start
from pretrain.commands import PretrainCommand
from pretrain.resilience.failure_messages import failure_of_rank
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.resilience.node_health import require_offload_folder, require_same_versions
from pretrain.resilience.stop_signals import StopFlag, follow_launcher
from pretrain.resilience.watchdog import Watchdog
from pretrain.run_checks import check_run
from pretrain.runtime.ranks import DEFAULT_TIMEOUT_S, decided_by_rank_0, init_ranks
from pretrain.training.trainer import Trainer


def pretrain(command: PretrainCommand) -> None:
    """Run `resonance pretrain`: join the ranks, train, leave them.

    Raises:
        RunError: The run is impossible as configured.
        SystemExit: With REQUEUE_STATUS, when it was asked to stop before the end.
    """
    run = command.run
    with StopFlag() as stop:
        # without the launcher, which knows their addresses, ranks would wait for one another
        follow_launcher(signal.SIGKILL)
        ranks = init_ranks(max(DEFAULT_TIMEOUT_S, 2 * run.health.hang_timeout_s))
        follow_launcher(signal.SIGTERM)
        heartbeat = Heartbeat(run.train.output, ranks.rank)
        try:
            require_same_versions()
            start = decided_by_rank_0(lambda: _find_start(command, ranks.world_size))
            require_offload_folder(run.parallel)
            name = decided_by_rank_0(lambda: time.strftime("%Y%m%d-%H%M%S"))
            with Watchdog(run, heartbeat, ranks.world_size, name):
                Trainer(run, ranks, start, stop=stop, heartbeat=heartbeat).train()
        except Exception as error:
            raise failure_of_rank(error, ranks, heartbeat, run.train.output) from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _find_start(command: PretrainCommand, num_ranks: int) -> Path | None:
    """Check the run before anything is written, and find the checkpoint to resume from."""
    check_run(command.run, num_ranks)
    return find_start(command.run, resume=command.resume, auto_resume=command.auto_resume)
