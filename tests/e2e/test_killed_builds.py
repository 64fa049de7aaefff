"""Builds on a cluster whose processes are killed at random: the same bytes in the end."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_pipeline.build.build import build
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.config import BuildConfig


def digests(output: Path) -> dict[str, str]:
    """The checksum of every file but the report, which holds times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def finished_files(output: Path) -> dict[Path, int]:
    """Records of finished parts and shards, with the time of their writing."""
    files = [*output.glob(".work/part-*.json"), *output.glob(".work/*.shard")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of thirty parts with duplicates, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("killed")
    generator = random.Random(0)
    lines: list[str] = []
    for number in range(900):
        words = [f"w{generator.randrange(500)}" for _ in range(60)]
        if number % 5 == 1:
            words = lines[generator.randrange(len(lines))].split()
            words[generator.randrange(60)] = "other"
        lines.append(" ".join(words))
    (folder / "lines.txt").write_text("".join(line + "\n" for line in lines))
    build(
        BuildConfig.model_validate(
            {
                "sources": [str(folder / "lines.txt")],
                "output": str(folder / "one"),
                "part_bytes": 8_000,
                "shard_bytes": 20_000,
                "read": {"document": "line"},
                "cleaning": CleaningConfig(near_duplicates=True),
            }
        )
    )
    return folder


def start(folder: Path, output: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start a build of the corpus in a session of its own."""
    command = [
        sys.executable, "-m", "pretrain.cli", "data", "build", "--sources",
        str(folder / "lines.txt"), "--output", str(output), "--part-bytes", "8000",
        "--shard-bytes", "20000", "--read.document", "line", "--cleaning.near-duplicates", *flags,
    ]  # fmt: skip
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kill_one(client: subprocess.Popen[bytes], kind: str, generator: random.Random) -> bool:
    """Kill the client or one of the worker processes; returns whether there was one."""
    if kind == "client":
        client.kill()
        return True
    try:
        children = psutil.Process(client.pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            os.kill(generator.choice(workers).pid, signal.SIGKILL)
        return bool(workers)
    except psutil.Error:
        return False


def build_under_fire(folder: Path, output: Path, kills: int, seed: int) -> int:
    """Build while processes are killed; returns how many were."""
    generator = random.Random(seed)
    done = 0
    before: dict[Path, int] = {}
    while not (output / "report.json").is_file():
        client = start(folder, output, "--cluster", "local", "--cluster.workers", "2")
        struck = False
        while client.poll() is None:
            time.sleep(generator.uniform(0.1, 1.5))
            # there is something to lose
            if done < kills and (output / ".work").is_dir():
                killed = kill_one(client, generator.choice(["worker", "client"]), generator)
                done, struck = done + killed, struck or killed
        client.wait()
        now = finished_files(output)
        repeated = {path for path, time_ns in before.items() if now.get(path, time_ns) != time_ns}
        assert not repeated
        before = now
        log = (output.parent / f"{output.name}.log").read_text()
        assert struck or client.returncode == 0, log[-2000:]
    return done


def test_killed_processes_change_no_byte(folder: Path) -> None:
    assert build_under_fire(folder, folder / "short", kills=3, seed=1) > 0
    assert digests(folder / "short") == digests(folder / "one")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(10))
def test_fifty_killed_processes_change_no_byte(folder: Path, seed: int) -> None:
    output = folder / f"long-{seed}"
    build_under_fire(folder, output, kills=5, seed=seed)
    assert digests(output) == digests(folder / "one")
