"""The proofs of the kernels that need a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _run_lane(name: str, *arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    result = subprocess.run(
        [*command, *arguments],
        cwd=HERE.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.timeout(600)
def test_interpreter_lane() -> None:
    _run_lane("interpreter_lane.py", "-m", "not slow", TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_interpreter_lane_of_long_chunks() -> None:
    _run_lane("interpreter_lane.py", "-m", "slow", TRITON_INTERPRET="1")


@pytest.mark.timeout(900)
def test_ahead_of_time_lane() -> None:
    _run_lane("aot_lane.py", "-m", "not slow", TRITON_DEFAULT_FP_FUSION="1")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ahead_of_time_lane_of_every_target() -> None:
    _run_lane("aot_lane.py", "-m", "slow", TRITON_DEFAULT_FP_FUSION="1")
