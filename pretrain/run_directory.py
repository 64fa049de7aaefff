"""What is in a run's directory, and whether it may be used (imports no torch)."""

import sys
from pathlib import Path

from data_pipeline.manifest import load_manifest
from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.manifest import MANIFEST, verified
from pretrain.checkpoint.retention import in_order
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError, RunError
from pretrain.parallel.layout import check_layout
from pretrain.run_file import load_run


def list_checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints of a run's directory, oldest first."""
    return in_order((directory / "checkpoints").glob("step-*"))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or a run's newest one; verified.

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
    """The run's directory that a checkpoint lies in; its own folder, if it was taken out of one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def find_newest(output: Path) -> Path | None:
    """A run's newest checkpoint that is undamaged; those that are damaged are named on stderr.

    Raises:
        CheckpointError: There are some, and all of them are damaged.
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


def find_start(run: RunConfig, *, resume: bool, auto_resume: bool = False) -> Path | None:
    """The checkpoint from which a run goes on; None: it starts.

    Raises:
        RunError: There is nothing to resume, what there is has another model, or a fresh run would
            mix with an earlier one.
    """
    start = _find_start(run, resume=resume, auto_resume=auto_resume)
    if start is not None:
        check_same_model(start, run)
    return start


def check_same_model(checkpoint: Path, run: RunConfig) -> None:
    """Refuse a checkpoint of another architecture.

    Raises:
        CheckpointError: Names the first key that differs.
    """
    saved = load_run(checkpoint / "run.toml")
    if saved.model != run.model:
        ours, theirs = run.model.model_dump(), saved.model.model_dump()
        key = next(key for key in ours if ours[key] != theirs[key])
        raise CheckpointError(
            f"{checkpoint}: another model: model.{key} is {theirs[key]} there, {ours[key]} here"
        )


def _find_start(run: RunConfig, *, resume: bool, auto_resume: bool) -> Path | None:
    output = run.train.output
    existing = list_checkpoints(output)
    if run.checkpoint.remote and not existing:
        # they need more imports, which only some runs need
        from pretrain.checkpoint.remote import fetch_newest, newest_remote

        if resume or auto_resume:
            fetch_newest(run)
        elif found := newest_remote(run.checkpoint.remote, run.data.storage):
            raise RunError(
                f"checkpoint.remote already holds {found}; expected no checkpoints there. Give "
                "--resume to go on, or another checkpoint.remote"
            )
    if auto_resume:
        return find_newest(output)
    if resume:
        return find_checkpoint(output)
    if existing:
        raise RunError(
            f"train.output {output} already holds {existing[-1].name}; expected an empty "
            "directory. Give --resume to go on, or another train.output"
        )
    return None


def check_run(run: RunConfig, num_ranks: int) -> None:
    """Find, before any rank starts, what would stop all of them.

    Raises:
        RunError: The layout is impossible, or the tokenizer is another one.
        DataError: A dataset is missing or unreadable.
    """
    check_layout(run, num_ranks)
    if not run.data.datasets:
        raise RunError('data.datasets is empty; expected for example [{ path = "data/train" }]')
    for path in [*(dataset.path for dataset in run.data.datasets), run.data.valid]:
        if path:
            check_tokenizer(run, load_manifest(path, run.data.storage).tokenizer.fingerprint)


def check_tokenizer(run: RunConfig, fingerprint: str) -> Path | None:
    """The run's tokenizer, to keep in checkpoints; None for bytes.

    Args:
        run: Names the tokenizer and the model's vocabulary.
        fingerprint: Of the tokenizer that made the shards.

    Raises:
        RunError: It is another tokenizer, or the model's vocabulary is too small for it.
    """
    tokenizer = load_tokenizer(run.data.tokenizer)
    if tokenizer.fingerprint != fingerprint:
        raise RunError(
            f"data.tokenizer {run.data.tokenizer} has fingerprint {tokenizer.fingerprint[:12]}; "
            f"expected that of the shards, {fingerprint[:12]}"
        )
    if tokenizer.vocab_size > run.model.vocab_size:
        raise RunError(
            f"model.vocab_size is {run.model.vocab_size}; expected at least the tokenizer's "
            f"{tokenizer.vocab_size}"
        )
    return None if tokenizer.kind == "byte" else Path(tokenizer.path)


def tokenizer_path(checkpoint: Path) -> str:
    """What to give `load_tokenizer` for a checkpoint: a file, a folder or 'byte'."""
    for name in ("tokenizer.model", "tokenizer"):
        if (checkpoint / name).exists():
            return str(checkpoint / name)
    return "byte"
