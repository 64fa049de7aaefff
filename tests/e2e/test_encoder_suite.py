"""transformers' common model tests pass on encoders and classifiers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_transformers_suite import REASONS, ROOT, suite  # noqa: F401  # fixture


@pytest.mark.slow
def test_the_common_model_tests_pass_on_encoders(suite: Path) -> None:  # noqa: F811
    here = Path(__file__)
    for name, module in (
        ("transformers_suite.py", "test_resonance.py"),
        ("encoder_suite.py", "test_resonance_encoder.py"),
    ):
        shutil.copyfile(here.with_name(name), suite / module)
    flags = ["-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *flags),
            *("--rootdir", str(suite), "test_resonance_encoder.py"),
        ],
        capture_output=True,
        text=True,
        cwd=suite,
        env={**os.environ, "PYTHONPATH": f"{suite}{os.pathsep}{ROOT}", "COLUMNS": "400"},
    )
    assert result.returncode == 0, result.stdout[-4_000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed
    assert int(passed[1]) >= 65, result.stdout[-500:]
    skips = re.findall(r"^SKIPPED \[\d+\] [^:]*:\d+: (.*)$", result.stdout, re.MULTILINE)
    unexplained = [
        reason for reason in skips if not any(re.search(pattern, reason) for pattern in REASONS)
    ]
    assert skips
    assert not unexplained
