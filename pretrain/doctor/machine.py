"""`resonance doctor`: checks of this machine for problems that would stop a run."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from launch.preflight import Finding, report
from pretrain.doctor.command import DoctorCommand
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


def doctor(command: DoctorCommand) -> str:
    """A report of versions, devices, shadowed packages, free disk and writable paths.

    With `kernels`, the table of `pretrain.doctor.kernels` instead; with `leak`, that of
    `pretrain.doctor.leak`.

    Raises:
        RunError: A check failed; the message is the whole report.
    """
    if command.leak:
        # imports torch and transformers
        from pretrain.doctor.leak import leak_report

        return leak_report(command)
    if command.kernels:
        # imports Triton
        from pretrain.doctor.kernels import kernel_table

        return kernel_table()
    findings = [
        Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        *_libraries(),
        *_devices(),
        *shadowed(OWN_PACKAGES, Path(__file__).resolve().parents[2]),
        *_disk(command.output),
    ]
    if any(finding.level == "bad" for finding in findings):
        raise RunError(f"found problems\n{report(findings)}")
    return report(findings)


def shadowed(names: tuple[str, ...], root: Path) -> Iterator[Finding]:
    """Whether each of our package names leads to our folder, a finding per name.

    PyPI has packages of the same names (`kernels`, `spectral`, `launch`).
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
        if folder == root / name:
            yield Finding("ok", name, str(folder))
        else:
            yield Finding(
                "bad",
                name,
                f"found {folder or 'nothing'}; expected {root / name}: another package of this "
                "name shadows it, or Resonance is not installed here",
                f"pip uninstall {name}, or make setup",
            )


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("bad", name, "not installed", "make setup")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            memory = properties.total_memory / 2**30
            yield Finding("ok", f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB, {bf16}")
    else:
        count = len(os.sched_getaffinity(0))
        yield Finding("ok", "devices", f"no GPU; {count} CPU cores, float32, gloo")


def _disk(output: Path) -> Iterator[Finding]:
    existing = next(
        path for path in (output.absolute(), *output.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.1f} GiB at {existing}"
    if free >= MIN_FREE_BYTES:
        yield Finding("ok", "free disk", text)
    else:
        text += f"; expected at least {MIN_FREE_BYTES / 2**30:.0f} GiB"
        yield Finding("bad", "free disk", text, "free some space, or choose another output")
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("ok", "output", f"{output}: writable")
    else:
        text = f"{output}: not a folder that can be written"
        yield Finding("bad", "output", text, "choose another output")
