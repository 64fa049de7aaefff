"""What must hold of a run that has done its last step, whatever has struck it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.checkpoint.catalog import list_checkpoints, step_of
from pretrain.monitoring.jsonl import read_lines
from tests.e2e.commands import ENVIRONMENT
from tests.faults.planted import NAN
from tests.faults.trial import EVERY, KEEP_EVERY, STEPS, Trial
from tests.processes import run_command

# keys of metrics.jsonl that are times or memory, and the number of faults that were noticed
MEASURED = (
    *("tokens_per_s", "slowest_", "valid_seconds", "seconds/", "mfu", "memory_bytes"),
    "guard_events",
)
FOREIGN = {
    "notes.txt": "of the user",
    "checkpoints/best/weights.bin": "chosen by the user",
    "checkpoints/step-0000003.copy/state.json": "copied by the user",
    "metrics.jsonl.old": "kept by the user",
}


def numbers(trial: Trial) -> list[dict[str, Any]]:
    """The records of metrics.jsonl without what differs between equal runs."""
    return [
        {key: value for key, value in record.items() if not key.startswith(MEASURED)}
        for record in trial.records()
    ]


def place_foreign_files(output: Path) -> None:
    """Files of the user in the run's directory."""
    for name, text in FOREIGN.items():
        file = output / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def problems(trial: Trial, expected: list[dict[str, Any]], corpus: dict[str, str]) -> Iterable[str]:
    """Whatever is wrong with a finished run, in words.

    Args:
        trial: The run.
        expected: The numbers of the undisturbed run.
        corpus: Digests of the corpus before the start.
    """
    found = numbers(trial)
    if trial.compared:
        yield from _differences(found, expected)
    elif [record["step"] for record in found] != [record["step"] for record in expected]:
        yield "metrics: not one record for each step and validation"
    yield from _checkpoints(trial)
    if digests(trial.corpus.folder) != corpus:
        yield "the corpus has changed"
    for name, text in FOREIGN.items():
        file = trial.output / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            yield f"the user's {name} is gone"
    yield from _left_over(trial)
    if NAN in trial.environment and not read_lines(trial.output / "audit.jsonl"):
        yield "the bad gradient that was planted is not in audit.jsonl"
    if "Traceback (most recent" in trial.printed():
        yield "a traceback was printed"


def _differences(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterable[str]:
    for one, other in zip(found, expected, strict=False):
        if one != other:
            yield f"metrics: found {one}; expected {other}"
            return
    if len(found) != len(expected):
        yield f"metrics: {len(found)} records; expected {len(expected)}"


def _checkpoints(trial: Trial) -> Iterable[str]:
    checkpoints = list_checkpoints(trial.output)
    steps = [step_of(checkpoint) for checkpoint in checkpoints]
    kept = [step for step in range(KEEP_EVERY, STEPS + 1, KEEP_EVERY) if step % EVERY == 0]
    printed = trial.printed()
    # a disk that refuses one costs it, and says so
    kept = [step for step in kept if f".step-{step:07d}.partial: " not in printed]
    missing = sorted({*kept, STEPS} - set(steps))
    if missing:
        yield f"checkpoints: found {steps}; {missing} are missing"
    for checkpoint in checkpoints:
        if trial.damaged_checkpoints.get(checkpoint.stat().st_ino) == checkpoint:
            # the disk refused another one in its place
            continue
        result = run_command(["checkpoint", "verify", str(checkpoint)], ENVIRONMENT)
        if result.returncode:
            yield f"verify: {result.stderr.strip()}"


def _left_over(trial: Trial) -> Iterable[str]:
    """Temporary files; processes that are killed leave theirs in TMPDIR."""
    names = [str(path.relative_to(trial.output)) for path in trial.output.rglob("*")]
    left = [name for name in names if name.endswith(".partial") or "/.step-" in f"/{name}"]
    if not trial.killed:
        # torch's cache of compiled code, which stays
        names = [path.name for path in trial.temporary.iterdir()]
        left += [name for name in names if not name.startswith("torchinductor_")]
    if left:
        yield f"left over: {left}"
