"""torchrun for runs that can be stopped and continued later; used by every launcher.

It takes torchrun's arguments. Plain torchrun kills ranks 30 seconds after SIGTERM, dies of SIGUSR1,
restarts ranks that have exited on request, and unpickles what anybody puts into its store. Six
things differ:

- SIGTERM, SIGUSR1, SIGINT (Ctrl-C) and SIGHUP are forwarded to the ranks, and the agent waits until
  they exit. The sender (Slurm, Kubernetes) sets the time limit; a second Ctrl-C ends them at once.
- Ranks that then exit, or that exit with REQUEUE_STATUS at any time, are not restarted, and this
  process exits with REQUEUE_STATUS unless they finished.
- Ranks that exit with GIVE_UP_STATUS are not restarted either, and this process exits with it.
- Ranks stop when this process is killed (`pretrain.resilience.stop_signals`).
- Agents meet as `pretrain.runtime.rendezvous` says, whatever backend the arguments name.
- With `--node-index-variable=NAME`, machine 0 hosts the rendezvous. torchrun would compare names,
  which a first machine may not be able to look up yet, or ever.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher import api

from launch import liveness
from launch.torchrun import (
    FAILURE_LOG,
    GIVE_UP_STATUS,
    LAUNCHER_PID,
    LOST_CONTACT_STATUS,
    NODE_INDEX,
    REQUEUE_STATUS,
)
from pretrain.runtime.interrupts import (
    FIRST,
    INTERRUPTED_STATUS,
    SECOND,
    STOP_SIGNALS,
    handle,
    tell,
)
from pretrain.runtime.rendezvous import label_of, prepare

# time for the other ranks to exit after all have saved: they flush logs and join processes
LEAVE_S = 120.0
PROGRAM = "pretrain.runtime.torchrun_agent"


class StoppableAgent(LocalElasticAgent):
    """torchrun's supervisor of one machine's ranks.

    State beyond torchrun's: `stopping`, the signal that asked for a stop, whether ranks are being
    started at the moment, and whether there was a Ctrl-C.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stopping: int | None = None
        self._starting = self._interrupted = False
        liveness.touch()
        handle(STOP_SIGNALS, self._forward)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = number
        # ranks of which torchrun does not know yet would be left over
        if not self._starting:
            self._stop_ranks(number)

    def _stop_ranks(self, number: int) -> None:
        ranks = [process for process in self._processes() if process.poll() is None]
        if number == signal.SIGINT and self._interrupted:
            self._end(ranks)
        if not ranks:
            # the agent still waits for other machines, and there is nothing to save
            sys.exit(REQUEUE_STATUS)
        if number == signal.SIGINT:
            self._interrupted = True
            tell(FIRST)
        for process in ranks:
            # not SIGINT, which ranks that the terminal reaches would count twice
            process.send_signal(signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGTERM)

    def _end(self, ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
        """End ranks and the processes that read data for them, and exit."""
        for process in ranks:
            # torchrun makes every rank the leader of its session
            os.killpg(process.pid, signal.SIGKILL)
        tell(SECOND)
        sys.exit(INTERRUPTED_STATUS)

    def _processes(self) -> list["subprocess.Popen[bytes]"]:
        """The ranks of this machine; none before the rendezvous."""
        if not isinstance(self._pcontext, SubprocessContext):
            return []
        return [handler.proc for handler in self._pcontext.subprocess_handlers.values()]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._starting = True
        try:
            started = super()._start_workers(worker_group)
        finally:
            self._starting = False
        # also if Python has ignored an earlier SystemExit, as it does in callbacks
        if self.stopping is not None:
            self._stop_ranks(self.stopping)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._let_ranks_leave()
        result = super()._monitor_workers(worker_group)
        liveness.touch()
        if result.is_failed():
            statuses = [failure.exitcode for failure in result.failures.values()]
            if self.stopping is not None or REQUEUE_STATUS in statuses:
                raise SystemExit(REQUEUE_STATUS)
            if GIVE_UP_STATUS in statuses:
                raise SystemExit(GIVE_UP_STATUS)
            _note_failure(statuses, label_of(worker_group.spec.rdzv_handler.get_run_id()))
        return result

    def _let_ranks_leave(self) -> None:
        """Once one rank has exited on purpose, wait for the others, which torchrun would kill."""
        processes = self._processes()
        if not any(process.poll() in (REQUEUE_STATUS, GIVE_UP_STATUS) for process in processes):
            return
        end = time.monotonic() + LEAVE_S
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            liveness.touch()
            time.sleep(0.1)


def _note_failure(statuses: Sequence[int], attempt: str) -> None:
    """Append `time host status attempt` to the failure log, for a rank that failed by itself."""
    path = os.environ.get(FAILURE_LOG)
    # torchrun ends the other ranks with SIGTERM
    failures = [status for status in statuses if status != -signal.SIGTERM]
    if path and failures:
        # a rank that lost contact with another one is not the cause
        status = min(failures, key=lambda failure: (failure == LOST_CONTACT_STATUS, failure))
        line = f"{time.time():.3f} {socket.gethostname()} {status} {attempt}\n"
        try:
            with Path(path).open("a", encoding="utf-8") as log:
                log.write(line)
        except OSError as error:
            # the restart is worth more than the note
            print(f"{path}: {error}; this failure is not recorded", file=sys.stderr)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Torchrun's options, with the role of this machine in the rendezvous if it is given."""
    parser = torchrun.get_args_parser()
    parser.add_argument(NODE_INDEX)
    options = parser.parse_args(arguments)
    name = options.node_index_variable
    if name is None:
        return options
    index = os.environ.get(name, "")
    if not index.isdigit():
        parser.error(f"{NODE_INDEX}={name}: expected this machine's index there, found {index!r}")
    is_host = int(index) == 0
    role = f"is_host={str(is_host).lower()}"
    options.rdzv_conf = ",".join(part for part in (options.rdzv_conf, role) if part)
    if is_host:
        _, port = parse_rendezvous_endpoint(options.rdzv_endpoint, default_port=-1)
        # the store of the rendezvous is also connected to from here
        options.rdzv_endpoint = f"127.0.0.1:{port}"
    return options


@record
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ranks of this machine; exit with REQUEUE_STATUS if the run must be continued."""
    # launch_agent takes the class from its module, and offers no other way to choose it
    api.LocalElasticAgent = StoppableAgent  # type: ignore[attr-defined]
    options = _parse(list(sys.argv[1:] if arguments is None else arguments))
    os.environ[LAUNCHER_PID] = str(os.getpid())
    options.signals_to_handle = "SIGQUIT"
    try:
        prepare(options)
    except ValueError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
    # folder of the ranks' tracebacks, which torchrun would not remove
    with tempfile.TemporaryDirectory(prefix="resonance_ranks_") as errors:
        options.log_dir = options.log_dir or errors
        try:
            torchrun.run(options)
        except ChildFailedError as error:
            print(error, file=sys.stderr)
            sys.exit(1)
        except RendezvousError as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            print(f"{PROGRAM}: {error}{cause}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            # before the agent handles it
            print("interrupted before any rank was started", file=sys.stderr)
            sys.exit(INTERRUPTED_STATUS)


if __name__ == "__main__":
    main()
