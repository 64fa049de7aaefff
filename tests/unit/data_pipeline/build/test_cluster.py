"""Building on a Dask cluster: the bytes of one process, whatever happens to its workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster
from pydantic import ValidationError

from data_pipeline.build.build import build
from data_pipeline.build.workers import remote
from data_pipeline.build.workers.cluster import DaskCluster, dask_cluster, make_certificates
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.cluster_config import ClusterConfig
from data_pipeline.errors import DataError, WriteError
from tests.unit.data_pipeline.build.test_build import config_for, digests

NEAR = CleaningConfig(near_duplicates=True)


def mark(folder: Path) -> Path:
    """Write what says which build a folder belongs to."""
    folder.mkdir(exist_ok=True)
    path = folder / "digest"
    path.write_text("this build")
    return path


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a running scheduler with two workers."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield str(cluster.scheduler_address)


@pytest.fixture
def workers(scheduler: str, tmp_path: Path) -> Iterator[DaskCluster]:
    """Workers of the running scheduler."""
    config = ClusterConfig(kind=scheduler, wait_s=60)
    with dask_cluster(config, tmp_path, mark(tmp_path / "work")) as cluster:
        yield cluster


def test_a_cluster_writes_what_one_process_writes(
    corpus: Path, tmp_path: Path, scheduler: str
) -> None:
    build(config_for(corpus, tmp_path / "one", cleaning=NEAR))
    cluster = ClusterConfig(kind=scheduler)
    config = config_for(corpus, tmp_path / "two", cleaning=NEAR, cluster=cluster)
    report = build(config)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    # the cluster is no part of what a build is
    assert build(config.model_copy(update={"cluster": ClusterConfig()})) == report


def write_once(folder: Path, number: int) -> None:
    """Leave a file per call."""
    for attempt in range(10):
        path = folder / f"{number}-{attempt}"
        if not path.exists():
            path.write_text(str(os.getpid()))
            return


def die_once(folder: Path, number: int) -> None:
    """Kill the first worker that gets task 3."""
    write_once(folder, number)
    if number == 3 and not (folder / "3-1").exists():
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_tasks_of_a_lost_worker_run_again(
    workers: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.build.workers.cluster._WINDOW", 5)
    folder = tmp_path / "calls"
    folder.mkdir()
    workers.run("try", die_once, [(folder, number) for number in range(12)])
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {str(n) for n in range(12)}
    assert (folder / "3-1").exists()


def die(*_: object) -> None:
    """Kill every worker that gets this task."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(kind: str) -> None:
    """Fail as tasks do."""
    if kind == "memory":
        raise MemoryError
    raise WriteError("s3://bucket/a.txt: no credentials; expected some")


def test_failures_name_their_worker(workers: DaskCluster) -> None:
    with pytest.raises(WriteError, match=r"worker tcp://127\S+: s3://bucket/a.txt: no credentials"):
        workers.run("try", fail, [("storage",)])
    with pytest.raises(DataError, match=r"worker tcp://127\S+: out of memory; .*cluster\.memory"):
        workers.run("try", fail, [("memory",)])
    with pytest.raises(
        DataError, match=r"workers that ran one task were lost, the last one tcp://"
    ):
        workers.run("try", die, [()])


def test_workers_that_differ_are_refused(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ClusterConfig(kind=scheduler, wait_s=60)
    here = {**remote.versions(), "pyarrow": "1.0"}
    with dask_cluster(config, tmp_path, mark(tmp_path / "work")) as workers:
        (tmp_path / "work/digest").write_text("another build")
        with pytest.raises(DataError, match=r"worker tcp:\S+: \S+digest is of another build"):
            workers.run("try", fail, [("storage",)])
        (tmp_path / "work/digest").unlink()
        with pytest.raises(DataError, match=r"digest: No such file.* a file system that"):
            workers.run("try", fail, [("storage",)])
    monkeypatch.setattr("data_pipeline.build.workers.cluster.versions", lambda: here)
    with (
        dask_cluster(config, tmp_path, mark(tmp_path / "work")) as workers,
        pytest.raises(DataError, match=r"worker tcp:\S+: pyarrow \S+; expected 1\.0 as here"),
    ):
        workers.run("try", fail, [("storage",)])


def test_clusters_that_do_not_answer(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    path = mark(tmp_path)
    for config, message in (
        (ClusterConfig(kind=address, wait_s=1), f"{address}: no Dask scheduler answers within 1 s"),
        (ClusterConfig(kind="tls://127.0.0.1:9"), "cluster.tls_ca: no file ''; expected one"),
    ):
        with pytest.raises(DataError, match=message), dask_cluster(config, tmp_path, path):
            pass
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(DataError, match="no worker within 1 s"),
        dask_cluster(ClusterConfig(kind=empty.scheduler_address, wait_s=1), tmp_path, path),
    ):
        pass
    with pytest.raises(ValidationError, match="expected local, slurm, tls://HOST:PORT or tcp"):
        ClusterConfig(kind="kubernetes")


def test_only_those_with_a_certificate_reach_a_cluster_with_tls(tmp_path: Path) -> None:
    path = mark(tmp_path)
    for folder in ("ours", "others"):
        (tmp_path / folder).mkdir()
    security = make_certificates(tmp_path / "ours")
    make_certificates(tmp_path / "others")

    def config(folder: str, wait_s: float) -> ClusterConfig:
        return ClusterConfig(
            kind=address,
            tls_ca=str(tmp_path / folder / "tls_ca_file.pem"),
            tls_cert=str(tmp_path / folder / "tls_worker_cert.pem"),
            tls_key=str(tmp_path / folder / "tls_worker_key.pem"),
            wait_s=wait_s,
        )

    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        protocol="tls://", security=security,
    ) as cluster:  # fmt: skip
        address = str(cluster.scheduler_address)
        assert address.startswith("tls://")
        with dask_cluster(config("ours", 60), tmp_path, path) as workers:
            workers.run("try", write_once, [(tmp_path, 0)])
        assert (tmp_path / "0-0").exists()
        plain = ClusterConfig(kind=address.replace("tls", "tcp"), wait_s=2)
        for stranger in (config("others", 2), plain):
            with (
                pytest.raises(DataError, match="no Dask scheduler answers within 2 s"),
                dask_cluster(stranger, tmp_path, path),
            ):
                pass


def listening() -> set[str]:
    """Addresses at which this process and its children wait for connections."""
    this = psutil.Process()
    return {
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for process in (this, *this.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_cluster_of_this_machine_listens_on_the_loopback_interface_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []

    before = listening()

    def seen(*_: object) -> None:
        addresses.extend(listening() - before)
        raise KeyboardInterrupt

    monkeypatch.setattr(DaskCluster, "run", seen)
    with pytest.raises(KeyboardInterrupt):
        build(config_for(corpus, tmp_path / "out", cluster=ClusterConfig(kind="local", workers=1)))
    # scheduler, nanny, worker, and two dashboards
    assert len(addresses) >= 4
    assert {address.rsplit(":", 1)[0] for address in addresses} == {"127.0.0.1"}


def wait_for_long(folder: Path, number: int) -> None:
    """Take longer than any test."""
    write_once(folder, number)
    time.sleep(600)


def test_a_scheduler_that_is_killed_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    flags = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    programs = [("dask_scheduler", ["--port", "0"]), ("dask_worker", ["--local-directory", "/tmp"])]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *flags, *more],
            stderr=subprocess.DEVNULL,
        )
        for name, more in programs
    ]
    try:
        deadline_s = time.monotonic() + 60
        while not file.is_file():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        config = ClusterConfig(kind=address, wait_s=60)

        def kill() -> None:
            while not (tmp_path / "0-0").exists():
                time.sleep(0.1)
            processes[0].kill()

        threading.Thread(target=kill, daemon=True).start()
        with (
            dask_cluster(config, tmp_path, mark(tmp_path / "work")) as workers,
            pytest.raises(DataError, match=f"the scheduler {address} is lost; .*resumes the work"),
        ):
            workers.run("try", wait_for_long, [(tmp_path, 0)])
    finally:
        for process in processes:
            process.kill()
            process.wait()
