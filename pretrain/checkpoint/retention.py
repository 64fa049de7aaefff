"""What checkpoints are called, and which of them are kept (imports no torch)."""

import re
from collections.abc import Iterable
from pathlib import Path

from pretrain.config import CheckpointConfig

_NAME = re.compile(r"step-[0-9]+")


def is_named(path: Path) -> bool:
    """Whether it has the name of a run's checkpoint; copies that users make have others."""
    return bool(_NAME.fullmatch(path.name))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Those with the name of a checkpoint, oldest first."""
    return sorted(filter(is_named, paths), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint of a run's directory was taken."""
    return int(checkpoint.name.removeprefix("step-"))


def expired(checkpoints: list[Path], config: CheckpointConfig) -> list[Path]:
    """Those that are neither among the last `keep_last` nor at a multiple of `keep_every` steps.

    Args:
        checkpoints: Complete ones, oldest first.
        config: Says which to keep.
    """
    return [
        path
        for path in checkpoints[: -config.keep_last]
        if not (config.keep_every and step_of(path) % config.keep_every == 0)
    ]
