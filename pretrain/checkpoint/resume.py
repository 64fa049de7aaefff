"""The checkpoint that a run starts from (imports no torch)."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.idle_keys import leaves
from pretrain.checkpoint.catalog import (
    IMPORTED_FROM,
    find_checkpoint,
    go_back,
    list_checkpoints,
    run_of,
)
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
        check_run(run, num_ranks, _branch_point(run))
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
        return go_back(output) or _branch_point(run)
    if resume:
        return find_checkpoint(output)
    if existing:
        raise RunError(
            f"train.output {output} already holds {existing[-1].name}; expected an empty "
            "directory. Give --resume to continue that run, or another train.output"
        )
    return _branch_point(run)


def _branch_point(run: RunConfig) -> Path | None:
    """The verified checkpoint that a branch starts from; None for a run that is none.

    A run of another objective is none: it begins with the parameters that fit. Neither is one of
    an imported model, which has no position in the data.

    Raises:
        RunError: There is none, it has another model, or the run ends before it.
    """
    if not run.train.branch_from:
        return None
    checkpoint = find_checkpoint(Path(run.train.branch_from))
    if load_saved_run(checkpoint).objective.kind != run.objective.kind:
        return None
    check_same_model(checkpoint, run)
    if IMPORTED_FROM in _state(checkpoint):
        return None
    if run.train.steps <= (step := _step(checkpoint)):
        raise RunError(
            f"train.steps is {run.train.steps} in a branch of {checkpoint}, which is of step "
            f"{step}; expected more, for example {step + run.train.steps}: steps count from the "
            "beginning of the first run"
        )
    return checkpoint


def as_branch(run: RunConfig, branch_from: Path) -> RunConfig:
    """A run that starts from a checkpoint; next to the checkpoint's run if it would write into it.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
    """
    checkpoint, output = find_checkpoint(branch_from), run.train.output
    if output.resolve() == run_of(checkpoint).resolve():
        output = output.with_name(f"{output.name}-from-{_step(checkpoint)}")
    train = run.train.model_copy(update={"output": output, "branch_from": str(branch_from)})
    return run.model_copy(update={"train": train})


def with_decay_start(run: RunConfig, checkpoint: Path | None) -> RunConfig:
    """The run with the step at which its decay starts, if it is a branch that leaves it open.

    Args:
        run: The run.
        checkpoint: The checkpoint that it starts from or resumes from; None for a new model.
    """
    decays = run.optim.schedule in ("cosine", "linear")
    if checkpoint is None or not (run.train.branch_from and decays) or run.optim.decay_start:
        return run
    saved = load_saved_run(checkpoint)
    is_resumed = saved.train.branch_from == run.train.branch_from
    start = (is_resumed and saved.optim.decay_start) or _step(checkpoint)
    optim = run.optim.model_copy(update={"decay_start": start})
    return run.model_copy(update={"optim": optim})


def _step(checkpoint: Path) -> int:
    return int(_state(checkpoint)["step"])


def _state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state
