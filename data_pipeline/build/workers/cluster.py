"""Workers of a Dask cluster: processes of this machine, Slurm jobs, or any running scheduler.

Dask runs whatever code its network brings. So a cluster of this machine listens on the loopback
interface alone, and one of several machines speaks TLS with certificates made for this build.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import os
import shlex
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, Security, as_completed
from distributed.comm import CommClosedError
from tqdm import tqdm

from data_pipeline.build.workers.remote import Place, call, versions
from data_pipeline.cluster_config import ClusterConfig
from data_pipeline.errors import DataError

# tasks that the scheduler holds at a time: a corpus may have millions
_WINDOW = 2048
# tasks keep nothing in memory that could be moved elsewhere: a worker that paused would never wake
_WORKER_SETTINGS = {
    f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")
}
_LOST = (futures.CancelledError, asyncio.CancelledError, CommClosedError, OSError)


class DaskCluster:
    """Processes of a Dask cluster; tasks of workers that are lost run again.

    Args:
        client: Connection to its scheduler.
        place: What workers must share with this machine.
        config: Its configuration.
    """

    def __init__(self, client: Client, place: Place, config: ClusterConfig):
        self._client, self._place, self._config = client, place, config
        self._address = client.scheduler.address

    def run(
        self, name: str, function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call `function(*task)` for all tasks; after a failure, no further task is started.

        Raises:
            DataError: A task failed, it lost too many workers, or the scheduler is lost.
        """
        waiting = iter(tasks)
        with tqdm(total=len(tasks), desc=name, unit="task", disable=None) as progress:
            running = as_completed(
                [self._submit(name, function, task) for task in itertools.islice(waiting, _WINDOW)]
            )
            try:
                for future in running:
                    future.result()
                    progress.update()
                    for task in itertools.islice(waiting, 1):
                        running.add(self._submit(name, function, task))
            except KilledWorker as error:
                raise DataError(
                    f"{name}: {error.allowed_failures + 1} workers that ran one task were lost, "
                    f"the last one {error.last_worker.address}, perhaps for lack of memory; "
                    f"expected it to finish within cluster.memory ({self._config.memory}). The "
                    "same command resumes the work."
                ) from error
            except ImportError as error:
                raise DataError(
                    f"{name}: a worker cannot import the build ({error}); expected the environment "
                    "of this machine"
                ) from error
            except _LOST as error:
                if isinstance(error, OSError) and self._client.status == "running":
                    raise
                raise DataError(
                    f"{name}: the scheduler {self._address} is lost; expected it "
                    "to stay until the end. The same command resumes the work."
                ) from error
            finally:
                with contextlib.suppress(*_LOST):
                    running.clear()

    def _submit(self, name: str, function: Callable[..., None], task: tuple[Any, ...]) -> Any:
        key = f"{name}-{uuid.uuid4().hex}"
        return self._client.submit(call, self._place, function, task, key=key, pure=False)


@contextlib.contextmanager
def dask_cluster(config: ClusterConfig, work: Path, mark: Path) -> Iterator[DaskCluster]:
    """A cluster for one build, ended with it (a scheduler that was running before stays).

    Args:
        config: Its configuration.
        work: Folder of the build's unfinished work, which all workers see.
        mark: File in it that says which build it belongs to.

    Raises:
        DataError: It cannot be reached or started, or no worker comes.
    """
    place = Place(Path.cwd(), mark.absolute(), mark.read_text(encoding="utf-8"), versions())
    for name in logging.root.manager.loggerDict:
        # lost workers and connections: what matters of them is in the message of the build
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": config.attempts - 1,
        "distributed.comm.timeouts.connect": f"{config.wait_s}s",
        **_WORKER_SETTINGS,
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        if config.kind == "local":
            client = Client(stack.enter_context(_local(config)))
        elif config.kind == "slurm":
            client = Client(stack.enter_context(_slurm(config, work)))
        else:
            client = _connect(config)
        stack.enter_context(client)
        if importlib.util.find_spec("bokeh"):
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
        _wait_for_worker(client, config, work)
        yield DaskCluster(client, place, config)


@contextlib.contextmanager
def _local(config: ClusterConfig) -> Iterator[LocalCluster]:
    """Processes of this machine, on the loopback interface alone."""
    with LocalCluster(
        n_workers=config.min_workers or config.workers,
        threads_per_worker=1,
        memory_limit=config.memory,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=tempfile.gettempdir(),
    ) as cluster:
        if config.min_workers:
            cluster.adapt(minimum=config.min_workers, maximum=config.workers)
        yield cluster


@contextlib.contextmanager
def _slurm(config: ClusterConfig, work: Path) -> Iterator[Any]:
    """Slurm jobs of one worker each; a job that ends is followed by another one."""
    from dask_jobqueue import SLURMCluster

    folder = work / "cluster"
    # the workers' key is in it
    folder.mkdir(mode=0o700, exist_ok=True)
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        cluster = SLURMCluster(
            cores=1,
            processes=1,
            memory=config.memory,
            walltime=config.walltime,
            queue=config.partition or None,
            account=config.account or None,
            interface=config.interface or None,
            security=make_certificates(folder),
            protocol="tls://",
            log_directory=str(folder),
            local_directory=tempfile.gettempdir(),
            death_timeout=str(int(config.wait_s)),
            job_script_prologue=[
                f"export PYTHONPATH={shlex.quote(paths)}",
                *(
                    f"export DASK_{name.replace('.', '__').upper()}={value}"
                    for name, value in _WORKER_SETTINGS.items()
                ),
                *config.setup,
            ],
            worker_extra_args=["--no-dashboard"],
            python=shlex.quote(sys.executable),
            job_name="resonance-data",
            scheduler_options={"dashboard_address": "127.0.0.1:0"}
            | ({"host": config.host} if config.host else {}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cluster slurm: no scheduler on this machine ({error}); expected a login node, and "
            "cluster.interface one of its networks"
        ) from error
    with cluster:
        cluster.adapt(minimum=config.min_workers or config.workers, maximum=config.workers)
        yield cluster


def make_certificates(folder: Path) -> Security:
    """A key and a certificate for all processes of a cluster, in files that only the user reads."""
    made = Security.temporary()
    files: dict[str, str] = {}
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        path = folder / f"{name}.pem"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(getattr(made, name), encoding="utf-8")
        files[name.rsplit("_", 1)[-1]] = str(path)
    roles = ("client", "scheduler", "worker")
    return Security(
        tls_ca_file=files["file"],
        require_encryption=True,
        **{f"tls_{role}_{kind}": files[kind] for role in roles for kind in ("cert", "key")},
    )


def _connect(config: ClusterConfig) -> Client:
    """A client of a scheduler that is running."""
    security = None
    if config.kind.startswith("tls://"):
        for key in ("tls_ca", "tls_cert", "tls_key"):
            path = getattr(config, key)
            if not Path(path).is_file():
                raise DataError(
                    f"cluster.{key}: no file {path!r}; expected one, since {config.kind} needs a "
                    "certificate"
                )
        security = Security(
            tls_ca_file=config.tls_ca,
            tls_client_cert=config.tls_cert,
            tls_client_key=config.tls_key,
            require_encryption=True,
        )
    try:
        return Client(config.kind, security=security, timeout=config.wait_s)
    except (OSError, CommClosedError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cluster {config.kind}: no Dask scheduler answers within {config.wait_s:g} s "
            f"({reason}); expected one of Dask {dask.__version__}"
        ) from error


def _wait_for_worker(client: Client, config: ClusterConfig, work: Path) -> None:
    try:
        client.wait_for_workers(1, timeout=config.wait_s)
    except TimeoutError as error:
        logs = f" Logs of its jobs: {work / 'cluster'}." if config.kind == "slurm" else ""
        raise DataError(
            f"cluster {config.kind}: no worker within {config.wait_s:g} s (cluster.wait_s); "
            f"expected at least one.{logs}"
        ) from error
