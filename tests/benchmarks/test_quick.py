"""Every benchmark runs: its quick form goes through all its code at tiny sizes."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reporting.catalogue import benchmark_names

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", benchmark_names())
def test_quick_form_ends_well_and_judges_nothing(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    bars = [line for line in done.stdout.splitlines() if line.startswith("bar: ")]
    assert all(line.endswith(": not judged") for line in bars)
    # a table, besides the bars
    assert len(done.stdout.splitlines()) > len(bars) + 1


def test_benchmarks_are_found() -> None:
    assert {"kernels", "mixer", "quality"} <= set(benchmark_names())
