"""The checkpoint that a run starts from (imports no torch)."""

from pathlib import Path

from data_pipeline.idle_keys import leaves
from pretrain.checkpoint.catalog import find_checkpoint, go_back, list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError, RunError
from pretrain.resilience.run_lock import RunLock
from pretrain.run_checks import check_run
from pretrain.run_file import load_saved_run, with_chunk


def checked_start(
    run: RunConfig,
    num_ranks: int,
    lock: RunLock | None,
    *,
    resume: bool,
    auto_resume: bool = False,
) -> Path | None:
    """Check a run, lock its directory, and find the checkpoint from which it resumes.

    A run that cannot start from scratch is refused before anything is written.

    Args:
        run: The run.
        num_ranks: Number of processes that it is started with.
        lock: Lock of its directory, not yet acquired; None if nothing is to be started.
        resume: Whether to resume from the newest checkpoint.
        auto_resume: Whether to resume from the newest sound one if there is one.

    Returns:
        The checkpoint; None for a start from scratch.

    Raises:
        RunError: As `find_start` and `check_run`, or another trainer holds the lock.
        DataError: As `check_run`.
    """
    is_fresh = not (list_checkpoints(run.train.output) or run.checkpoint.remote)
    if is_fresh:
        check_run(run, num_ranks)
    if lock is not None:
        lock.acquire()
    start = find_start(run, resume=resume, auto_resume=auto_resume)
    if not is_fresh:
        check_run(run, num_ranks, start)
    return start


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
    saved, run = load_saved_run(checkpoint), with_chunk(run, checkpoint)
    if saved.model != run.model:
        expected, stored = dict(leaves(run.model)), dict(leaves(saved.model))
        key = next(key for key in expected if expected[key] != stored[key])
        raise CheckpointError(
            f"{checkpoint}: another model: model.{key} is {stored[key]} there, {expected[key]} here"
        )


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
