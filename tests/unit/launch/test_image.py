"""The Dockerfile: pinned, without root, and with every package and file that it needs."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "launch/kubernetes/Dockerfile"


def instructions(name: str) -> list[str]:
    lines = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def test_bases_are_pinned() -> None:
    bases = [line.split()[0] for line in instructions("FROM")]
    outside = [base for base in bases if not base.startswith("$")]
    assert len(outside) == 2
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in outside), outside


def test_last_user_is_not_root() -> None:
    assert instructions("USER")[-1] == "1000:1000"


def test_everything_that_is_installed_is_copied() -> None:
    copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    files = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    wanted = (
        files | {name.rstrip("*") for name in packages} | {*project["project"]["license-files"]}
    )
    assert wanted <= copied
    allowed = (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines()
    assert {f"!{name}" for name in wanted} <= set(allowed)
    assert all((ROOT / name).exists() for name in wanted)
