"""The cluster that all tests of a session share, jobs of a small stand-in for the trainer, pods."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from launch.config import LaunchConfig
from launch.job import Job
from launch.slurm import client
from tests.launch import pods as containers
from tests.launch.slurm_cluster import Cluster, missing

STAND_IN = Path(__file__).with_name("stand_in.py")
TRAINER = "--module \\\n    pretrain.cli \\\n    pretrain"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of three nodes; Slurm's commands in this process talk to it."""
    lacking = missing()
    if lacking:
        pytest.skip(f"a Slurm cluster on this machine needs: {lacking}")
    # not pytest's own folder: its path may be too long for munge's socket, and is private
    root = Path(tempfile.mkdtemp(prefix="resonance-slurm-"))
    root.chmod(0o755)
    cluster = Cluster(root)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    try:
        cluster.up()
        os.environ.update({name: cluster.environment[name] for name in before})
        yield cluster
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        cluster.down()
        shutil.rmtree(root)


@pytest.fixture
def idle(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with nothing running, before and after a test."""
    yield cluster
    cluster.run("scancel", "--full", "--user=root")
    for name in cluster.names:
        if name not in cluster.daemons:
            cluster.start_node(name)
    cluster.wait_for_nodes("idle")


@pytest.fixture
def stand_in(idle: Cluster, tmp_path: Path) -> Callable[..., Job]:
    """Write a job whose ranks are the stand-in; submit it with `client.submit`."""

    del idle  # only for its end: nothing of this job runs then

    def write(behaviour: str, folder: str = "launch", **table: object) -> Job:
        slurm = {"time_limit": "5", **table.pop("slurm", {})}  # type: ignore[dict-item]
        environment = {"BEHAVIOUR": behaviour, "STAND_IN": str(tmp_path)}
        config = LaunchConfig.model_validate(
            {
                "nodes": 2,
                "stop_lead_s": 30,
                "network_interface": "eth0",
                "environment": environment,
                "slurm": slurm,
                **table,
            }
        )
        directory = PurePosixPath(tmp_path / folder)
        working = PurePosixPath(tmp_path)
        job = Job(config, "trial", directory, working, sys.executable, ["a = 1\n"], directory)
        script = client.write_files(job)
        text = script.read_text()
        assert text.count(TRAINER) == 1
        script.write_text(text.replace(TRAINER, str(STAND_IN)))
        return job

    return write


@pytest.fixture
def wrapped(idle: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, first in the PATH, with a site's wrappers of Slurm's commands, none with JSON."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"):
        program = folder / name
        real = shutil.which(name, path=idle.environment["PATH"])
        program.write_text(
            f"""#!/bin/sh
case "$*" in *--json*) echo "{name}: unrecognized option '--json'" >&2; exit 1 ;; esac
echo "Welcome | to the cluster!"
echo 2027
echo "project lab: low on hours" >&2
exec {real} "$@"
"""
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def pods() -> Iterator[containers.Pods]:
    lacking = containers.missing()
    if lacking:
        pytest.skip(f"pods on this machine need: {lacking}")
    folder = Path(tempfile.mkdtemp(prefix="resonance-pods-"))
    pods = containers.Pods(folder)
    try:
        try:
            pods.up()
        except RuntimeError as error:
            pytest.skip(f"containers cannot run on this machine: {error}")
        yield pods
    finally:
        pods.down()
        shutil.rmtree(folder, ignore_errors=True)
