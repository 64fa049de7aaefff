"""`python -m launch.versions`: the versions that must agree on every machine of a run, as JSON."""

import hashlib
import importlib.metadata
import json
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

# libraries through which ranks exchange data, or on which the bytes of a checkpoint depend
LIBRARIES = ("torch", "deepspeed", "numpy", "safetensors", "tokenizers", "sentencepiece")
PACKAGES = ("data_pipeline", "kernels", "launch", "pretrain", "spectral")
REMEDY = "install Resonance on a disk that all nodes share, or use a container"


def versions() -> dict[str, str]:
    """Versions on this machine; a missing library has the version `none`."""
    table = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "resonance": _source_digest(Path(__file__).parents[1]),
    }
    for name in LIBRARIES:
        try:
            table[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            table[name] = "none"
    return table


def differences(here: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Lines that name a machine and a library whose version differs from this machine's."""
    for other in others:
        for name, version in here.items():
            if name != "host" and other.get(name) != version:
                yield f"{other['host']}: {name} {other.get(name)}; expected {version}"


def _source_digest(root: Path) -> str:
    """Digest of all source files: the version number does not change during development."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (root / name).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return f"sources {digest.hexdigest()[:12]}"


def unmet_requirements(package: str) -> Iterator[str]:
    """Lines that name an installed library that does not meet a package's requirements."""
    for text in importlib.metadata.requires(package) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version}; expected {requirement.specifier}"


if __name__ == "__main__":
    print(json.dumps(versions()))
