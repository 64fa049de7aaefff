"""`resonance doctor`: what on this machine would stand in the way of a run."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pretrain.commands import DoctorCommand
from pretrain.errors import RunError

OWN_PACKAGES = ("pretrain", "spectral", "kernels", "launch", "data_pipeline")
LIBRARIES = (
    "torch",
    "deepspeed",
    "megatron-core",
    "webdataset",
    "sentencepiece",
    "wandb",
    "triton",
    "fairscale",
    "transformers",
)
MIN_FREE_BYTES = 5 * 2**30


class Finding(NamedTuple):
    """One line of the report; a finding that is not good says what to do."""

    good: bool
    subject: str
    text: str


def doctor(command: DoctorCommand) -> str:
    """Report versions, devices, shadowed packages, free disk and writable paths.

    With `kernels`, the table of `pretrain.doctor.kernels` instead.

    Raises:
        RunError: Something is wrong; the message is the whole report.
    """
    if command.kernels:
        # imports Triton
        from pretrain.doctor.kernels import kernel_table

        return kernel_table()
    findings = [
        Finding(True, "python", f"{platform.python_version()} on {platform.platform()}"),
        *_libraries(),
        *_devices(),
        *shadowed(OWN_PACKAGES, Path(__file__).resolve().parents[2]),
        *_disk(command.output),
    ]
    report = "\n".join(
        f"{'ok  ' if finding.good else 'BAD '} {finding.subject:<14} {finding.text}"
        for finding in findings
    )
    if not all(finding.good for finding in findings):
        raise RunError(f"found problems\n{report}")
    return report


def shadowed(names: tuple[str, ...], root: Path) -> Iterator[Finding]:
    """Whether each of our package names leads to our folder.

    PyPI has packages of the same names (`kernels`, `spectral`, `launch`).
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).parent
        if found == root / name:
            yield Finding(True, name, str(found))
        else:
            yield Finding(
                False,
                name,
                f"found {found or 'nothing'}; expected {root / name}: another package of this "
                f"name shadows it (pip uninstall {name}), or Resonance is not installed here",
            )


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        try:
            yield Finding(True, name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, name, "not installed: make setup")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            memory = properties.total_memory / 2**30
            yield Finding(True, f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB, {bf16}")
    else:
        count = len(os.sched_getaffinity(0))
        yield Finding(True, "devices", f"no GPU; {count} CPU cores, float32, gloo")


def _disk(output: Path) -> Iterator[Finding]:
    existing = next(
        path for path in (output.absolute(), *output.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    enough = free >= MIN_FREE_BYTES
    advice = "" if enough else f"; expected at least {MIN_FREE_BYTES / 2**30:.0f} GiB"
    yield Finding(enough, "free disk", f"{free / 2**30:.1f} GiB at {existing}{advice}")
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    advice = "writable" if writable else "not a folder that can be written: choose another output"
    yield Finding(writable, "output", f"{output}: {advice}")
