"""Corpora built by the jobs of a real Slurm: the bytes of one process, also when a node dies."""

import hashlib
import threading
from pathlib import Path

import pytest

from data_pipeline.build.build import build
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.cluster_config import ClusterConfig
from data_pipeline.config import BuildConfig
from tests.launch.slurm_cluster import Cluster, wait_for

pytestmark = pytest.mark.system


def digests(output: Path) -> dict[str, str]:
    """The checksum of every file but the report, which holds times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def config_for(folder: Path, cluster: Cluster, **changes: object) -> BuildConfig:
    """A build of forty parts on jobs of one worker."""
    lines = folder / "lines.txt"
    lines.write_text("".join(f"document {number} " + "word " * 60 + "\n" for number in range(600)))
    slurm = ClusterConfig(
        kind="slurm",
        workers=2,
        memory="1GiB",
        walltime="00:05:00",
        partition="short",
        interface="eth0",
        host=f"{cluster.subnet}.1",
        wait_s=120,
    )
    values = {
        "sources": (str(lines),),
        "output": str(folder / "slurm"),
        "part_bytes": 5_000,
        "shard_bytes": 10_000,
        "read": {"document": "line"},
        "cleaning": CleaningConfig(near_duplicates=True, near_ngram=1),
        "cluster": slurm,
        **changes,
    }
    return BuildConfig.model_validate(values)


def test_jobs_write_what_one_process_writes(idle: Cluster, tmp_path: Path) -> None:
    config = config_for(tmp_path, idle)
    changes = {"output": str(tmp_path / "here"), "cluster": ClusterConfig()}
    build(config.model_copy(update=changes))
    build(config)
    assert len(digests(tmp_path / "here")) > 4
    assert digests(tmp_path / "slurm") == digests(tmp_path / "here")
    jobs = [job for job in idle.run("scontrol", "show", "job").split("\n\n") if job.strip()]
    ours = [job for job in jobs if "JobName=resonance-data" in job]
    assert len(ours) >= 2
    assert all("Partition=short" in job for job in ours)
    # the keys of the workers went with the build
    assert not list(tmp_path.rglob("*.pem"))


@pytest.mark.slow
def test_a_node_that_dies_costs_its_tasks_alone(idle: Cluster, tmp_path: Path) -> None:
    config = config_for(tmp_path, idle)
    changes = {"output": str(tmp_path / "here"), "cluster": ClusterConfig()}
    build(config.model_copy(update=changes))
    killed: list[str] = []

    def kill() -> None:
        work = tmp_path / "slurm/.work"
        wait_for(lambda: len(list(work.glob("part-*.json"))) >= 3, 120, "finished parts")
        running = idle.run("squeue", "-h", "-t", "R", "-n", "resonance-data", "-o", "%N").split()
        killed.append(running[0])
        idle.kill_node(running[0])

    killer = threading.Thread(target=kill)
    killer.start()
    build(config)
    killer.join()
    assert len(killed) == 1
    assert digests(tmp_path / "slurm") == digests(tmp_path / "here")
