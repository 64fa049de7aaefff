"""The checkpoint that a run starts from (imports no torch)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pretrain.checkpoint.catalog import find_checkpoint, go_back, list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError, RunError
from pretrain.run_file import load_saved_run


def find_start(run: RunConfig, *, resume: bool, auto_resume: bool = False) -> Path | None:
    """The checkpoint from which a run resumes; None for a start from scratch.

    Raises:
        RunError: There is nothing to resume, the checkpoint has another model, or a fresh run would
            mix with an earlier one.
    """
    start = _find_start(run, resume=resume, auto_resume=auto_resume)
    if start is not None:
        check_same_model(start, run)
    return start


def check_same_model(checkpoint: Path, run: RunConfig) -> None:
    """Reject a checkpoint of another architecture.

    Raises:
        CheckpointError: Names the first key that differs.
    """
    saved = load_saved_run(checkpoint)
    if saved.model != run.model:
        expected, stored = dict(_leaves(run.model)), dict(_leaves(saved.model))
        key = next(key for key in expected if expected[key] != stored[key])
        raise CheckpointError(
            f"{checkpoint}: another model: model.{key} is {stored[key]} there, {expected[key]} here"
        )


def _leaves(table: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all keys, those of nested tables included."""
    for key, value in table:
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _find_start(run: RunConfig, *, resume: bool, auto_resume: bool) -> Path | None:
    output = run.train.output
    existing = list_checkpoints(output)
    if run.checkpoint.remote and not existing:
        # imported only by the runs that need it
        from pretrain.checkpoint.remote import fetch_newest, newest_remote

        if resume or auto_resume:
            fetch_newest(run, or_older=auto_resume)
        elif newest := newest_remote(run.checkpoint.remote, run.data.storage):
            raise RunError(
                f"checkpoint.remote already holds {newest}; expected no checkpoints there. Give "
                "--resume to continue that run, or another checkpoint.remote"
            )
    if auto_resume:
        return go_back(output)
    if resume:
        return find_checkpoint(output)
    if existing:
        raise RunError(
            f"train.output {output} already holds {existing[-1].name}; expected an empty "
            "directory. Give --resume to continue that run, or another train.output"
        )
    return None
