"""Which checkpoints are kept (imports no torch)."""

from pathlib import Path

from pretrain.config import CheckpointConfig


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
