"""`resonance pretrain` on one rank: join the other ranks, train, leave them."""

import signal
import sys
import time

import torch.distributed as dist

from pretrain.checkpoint.resume import as_branch, checked_start
from pretrain.commands import PretrainCommand
from pretrain.resilience.failure_messages import failure_of_rank
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.resilience.node_health import (
    require_compiler,
    require_offload_folder,
    require_same_versions,
)
from pretrain.resilience.run_lock import LAUNCHER_PATIENCE_S, PATIENCE_S, RunLock
from pretrain.resilience.stop_signals import StopFlag, follow_launcher
from pretrain.resilience.watchdog import Watchdog
from pretrain.runtime.ranks import DEFAULT_TIMEOUT_S, decided_by_rank_0, init_ranks
from pretrain.training.resumption import nothing_left
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
        if (branch_from := command.branch_from) is not None:
            run = decided_by_rank_0(lambda: as_branch(command.run, branch_from))
        heartbeat = Heartbeat(run.train.output, ranks.rank)
        # a launcher may start a run again before the earlier start has ended
        lock = RunLock(run.train.output, LAUNCHER_PATIENCE_S if command.auto_resume else PATIENCE_S)
        try:
            require_same_versions()
            start = decided_by_rank_0(
                lambda: checked_start(
                    run,
                    ranks.world_size,
                    lock,
                    resume=command.resume,
                    auto_resume=command.auto_resume,
                )
            )
            if start and (message := decided_by_rank_0(lambda: nothing_left(run, start))):
                if ranks.rank == 0:
                    print(message, file=sys.stderr)
                return
            require_offload_folder(run.parallel)
            require_compiler(run.train, ranks.device)
            name = decided_by_rank_0(lambda: time.strftime("%Y%m%d-%H%M%S"))
            with Watchdog(run, heartbeat, ranks.world_size, name):
                Trainer(run, ranks, start, stop=stop, heartbeat=heartbeat).train()
        except Exception as error:
            raise failure_of_rank(error, ranks, heartbeat, run.train.output) from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            lock.release()
