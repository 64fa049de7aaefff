"""`python -m launch.versions`: the versions that must agree on every machine of a run, as JSON."""

import hashlib
import importlib.metadata
import json
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

# What ranks exchange data through, or what a checkpoint's bytes depend on.
LIBRARIES = ("torch", "deepspeed", "numpy", "safetensors", "tokenizers", "sentencepiece")
PACKAGES = ("data_pipeline", "kernels", "launch", "pretrain", "spectral")
REMEDY = "install Resonance on a disk that all nodes share, or use a container"


def versions() -> dict[str, str]:
    """Of this machine; a library that is missing has the version `none`."""
    found = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "resonance": _source_digest(Path(__file__).parents[1]),
    }
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def differences(here: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line per machine and library that is not the version of this machine."""
    for other in others:
        for name, version in here.items():
            if name != "host" and other.get(name) != version:
                yield f"{other['host']}: {name} {other.get(name)}; expected {version}"


def _source_digest(root: Path) -> str:
    """Of every source file of Resonance: its version number stays while it is being worked on."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (root / name).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return f"sources {digest.hexdigest()[:12]}"


def unmet_requirements(package: str) -> Iterator[str]:
    """A line per installed library that is not what a package asks for."""
    for text in importlib.metadata.requires(package) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found}; expected {requirement.specifier}"


if __name__ == "__main__":
    print(json.dumps(versions()))
