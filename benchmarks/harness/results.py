"""Result files: a benchmark's figures with commit, machine and date (imports no torch)."""

import json
import math
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.thresholds import Outcome

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# sources of every benchmark
SOURCES = (
    "benchmarks/harness", "constraints.txt", "data_pipeline",
    "kernels", "launch", "pretrain", "spectral",
)  # fmt: skip
DIRTY = "-dirty"


def result_path(name: str) -> Path:
    """The committed result file of a benchmark."""
    return RESULTS / f"{name}.json"


def sources_of(name: str) -> tuple[str, ...]:
    """Paths for git that a benchmark's figures depend on: other changes do not outdate them."""
    return (*SOURCES, f"benchmarks/{name}", f"benchmarks/{name}.py")


class Start(NamedTuple):
    """State of the sources and the machine just before a benchmark.

    Attributes:
        commit: Commit of the sources.
        load: Load average over the last minute.
        time_s: Reading of the performance counter.
    """

    commit: str
    load: float
    time_s: float


def start(name: str) -> Start:
    """The state at present, for a benchmark."""
    return Start(commit(name), os.getloadavg()[0], time.perf_counter())


def result_record(name: str, title: str, outcome: Outcome, started: Start) -> dict[str, Any]:
    """A result as JSON-able values.

    Args:
        name: The benchmark.
        title: What it measures, in one line.
        outcome: Its setting and figures.
        started: The state before it ran.

    Raises:
        ValueError: Two figures have one name, or a figure is not a finite number.
    """
    names = [figure.name for figure in outcome.figures]
    if len(set(names)) != len(names):
        raise ValueError(f"{name}: expected unique names of figures, found {sorted(names)}")
    for figure in outcome.figures:
        if not math.isfinite(figure.value):
            raise ValueError(f"{name}: {figure.name}: expected a number, found {figure.value}")
    return {
        "benchmark": name,
        "title": title,
        "setting": outcome.setting,
        "commit": started.commit,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - started.time_s),
        "load": round(started.load, 1),
        "machine": machine(),
        "rows": [
            {
                "name": figure.name,
                "figure": float(f"{figure.value:.6g}"),
                "unit": figure.unit,
                "limit": figure.limit,
                "at_most": figure.at_most,
                "holds": figure.holds,
            }
            for figure in outcome.figures
        ],
    }


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either complete or absent."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.rename(path)


def is_current(path: Path) -> bool:
    """Whether a result file exists and no source has changed since its commit."""
    if not path.exists():
        return False
    measured: str = json.loads(path.read_text(encoding="utf-8"))["commit"]
    if measured.endswith(DIRTY) or commit(path.stem).endswith(DIRTY):
        return False
    return _git("diff", "--quiet", measured, "HEAD", "--", *sources_of(path.stem)).returncode == 0


def commit(name: str) -> str:
    """Short hash of the commit; 'unknown' without git.

    Args:
        name: A benchmark; '-dirty' is added if its sources differ from the commit.
    """
    head = _git("rev-parse", "--short=7", "HEAD").stdout.strip()
    changes = _git("status", "--porcelain", "--", *sources_of(name)).stdout.strip()
    return (head or "unknown") + (DIRTY if changes else "")


def machine() -> dict[str, Any]:
    """The computer and the versions that figures depend on."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30),
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def processor() -> str:
    """Model name of the processor, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
