"""Names, order and expiry of a run's checkpoints (imports no torch)."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from pretrain.checkpoint.manifest import MANIFEST, put_aside, verified
from pretrain.config import CheckpointConfig
from pretrain.errors import CheckpointError

# a listing of a store may have any names: only what a run writes, and no numbers without end
_NAME = re.compile(r"step-[0-9]{1,18}", re.ASCII)
# entry of state.json: the folder that a checkpoint, which has parameters alone, was imported from
IMPORTED_FROM = "imported_from"


def is_named(path: Path) -> bool:
    """Whether a path is named like a checkpoint of a run; copies made by users are not."""
    return bool(_NAME.fullmatch(path.name))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The paths that are named like checkpoints, oldest first."""
    return sorted(filter(is_named, paths), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was taken."""
    return int(checkpoint.name.removeprefix("step-"))


def expired(checkpoints: list[Path], config: CheckpointConfig) -> list[Path]:
    """The checkpoints that are neither among the last `keep_last` nor at multiples of `keep_every`.

    Args:
        checkpoints: Sound checkpoints, oldest first; the last is never expired.
        config: The run's `[checkpoint]` table.
    """
    return [
        path
        for path in checkpoints[: -config.keep_last]
        if not (config.keep_every and step_of(path) % config.keep_every == 0)
    ]


def list_checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints in a run directory, oldest first."""
    return in_order((directory / "checkpoints").glob("step-*"))


def find_checkpoint(path: Path) -> Path:
    """The verified checkpoint at a path: the path itself, or the newest of a run directory.

    Raises:
        CheckpointError: There is none, or a file is missing, cut short or changed.
    """
    if (path / MANIFEST).is_file() and (path / "state.json").exists():
        return verified(path)
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise CheckpointError(
            f"{path}: no checkpoint; expected a run's directory with checkpoints/step-*, or one "
            "checkpoint with manifest.json"
        )
    return verified(checkpoints[-1])


def run_of(checkpoint: Path) -> Path:
    """The run directory of a checkpoint; the checkpoint itself if it lies in none."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def find_newest(output: Path) -> Path | None:
    """The newest undamaged checkpoint of a run; newer, damaged ones are named on stderr.

    Raises:
        CheckpointError: There are checkpoints, and all of them are damaged.
    """
    problems = []
    for checkpoint in reversed(list_checkpoints(output)):
        try:
            return verified(checkpoint)
        except CheckpointError as error:
            print(f"{error}; looking for an older checkpoint", file=sys.stderr)
            problems.append(str(error))
    if problems:
        raise CheckpointError("no undamaged checkpoint: " + "; ".join(problems))
    return None


def go_back(output: Path) -> Path | None:
    """The newest undamaged checkpoint of a run that trains on from there; newer ones are put aside.

    They are damaged, and would count as the run's newest otherwise.

    Raises:
        CheckpointError: There are checkpoints, and all of them are damaged.
    """
    newest = find_newest(output)
    for passed in list_checkpoints(output):
        if newest is not None and step_of(passed) > step_of(newest):
            try:
                print(f"{passed} is renamed to {put_aside(passed, 'damaged')}", file=sys.stderr)
            except OSError as error:
                print(f"{passed}: cannot be renamed: {error}", file=sys.stderr)
    return newest


def tokenizer_path(checkpoint: Path) -> str:
    """The argument of `load_tokenizer` for a checkpoint: a file, a folder or 'byte'."""
    for name in ("tokenizer.model", "tokenizer"):
        if (checkpoint / name).exists():
            return str(checkpoint / name)
    return "byte"
