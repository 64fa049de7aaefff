"""Tests that a marker leaves out are counted at the end, with workers or without."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_slow(number): pass

@pytest.mark.slow
@pytest.mark.system
def test_both(): pass

@pytest.mark.system
def test_system(): pass
"""


@pytest.mark.parametrize("workers", [[], ["--numprocesses", "1"]], ids=["one process", "workers"])
def test_what_is_left_out_is_counted_by_file(workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: x\n    system: x\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.left_out", "--rootdir", str(tmp_path)]
    result = subprocess.run(
        [*command, "-m", "not slow and not system", *workers, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    begin = next(number for number, line in enumerate(lines) if "left out" in line)
    assert lines[begin + 1 : begin + 5] == [
        "make test-all runs 3 more tests:",
        "3 of test_some.py",
        "make test-system runs 1 more tests:",
        "1 of test_some.py",
    ]
