"""The image: the Dockerfile's own steps, on a base that stands in for Python's public image.

The base holds nothing but folders; programs and Python are this machine's, mounted. Libraries are
fetched before, by pip as it is configured here, so that the build itself needs no network.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.pods import PROGRAM_FOLDERS, ROOT, Pods

pytestmark = pytest.mark.system

DOCKERFILE = ROOT / "launch/kubernetes/Dockerfile"
MOUNTS = [f"--volume={path}:{path}:ro" for path in PROGRAM_FOLDERS]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_image_is_built_and_runs_without_root(pods: Pods, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wanted = ["setuptools>=77", "wheel", str(ROOT)]
    fetch = ["pip", "download", "--quiet", f"--constraint={ROOT}/constraints.txt"]
    subprocess.run([sys.executable, "-m", *fetch, f"--dest={wheels}", *wanted], check=True)
    (base,) = (
        line.split()[1]
        for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()
        if line.startswith("FROM ") and line.endswith(" AS cpu")
    )
    pods.make_image(
        f"docker.io/library/{base}",
        "root:x:0:0:root:/root:/bin/sh\n",
        f"ENV PATH={sys.base_prefix}/bin:/usr/bin:/usr/sbin:/bin:/sbin",
        "ENV PIP_NO_INDEX=1",
        "ENV PIP_FIND_LINKS=/wheels",
    )
    pods.podman(
        "build", "--pull=never", "--layers=false", "--isolation=chroot", "--build-arg=BASE=cpu",
        *MOUNTS, f"--volume={wheels}:/wheels:ro", f"--file={DOCKERFILE}",
        "--tag=localhost/resonance:built", str(ROOT),
    )  # fmt: skip
    shutil.rmtree(wheels)

    def run(*command: str) -> str:
        options = ["--rm", "--read-only", "--network=none", *MOUNTS]
        return pods.podman("run", *options, "localhost/resonance:built", *command)

    assert run("id").startswith("uid=1000(resonance) gid=1000(resonance)")
    assert "launch kubernetes" in run("resonance", "--help")
    program = (
        "import pretrain.training.trainer, deepspeed; print(pretrain.training.trainer.__file__)"
    )
    assert run("python", "-c", program).split()[-1] == "/src/pretrain/training/trainer.py"
    assert sorted(run("ls", "/src").split()) == [
        "LICENSE", "README.md", "constraints.txt", "data_pipeline", "kernels", "launch",
        "pretrain", "pyproject.toml", "resonance.egg-info", "spectral",
    ]  # fmt: skip
