"""Checkpoints: whole or absent, verified before they are used.

    RUN/checkpoints/step-0000100/
        model.safetensors       parameters, for evaluation, generation and export
        run.toml                the run that made them
        tokenizer.model         (or a folder) what made the tokens
        engine/                 DeepSpeed: optimizer, schedule, parameters by rank
        state.json              step, tokens, data position
        manifest.json           size and SHA-256 of every file above; written last

A checkpoint is written under a name that starts with a dot and renamed when it is complete.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pretrain.config import RunConfig
from pretrain.distributed import Ranks, agreed, gathered_objects
from pretrain.errors import CheckpointError
from pretrain.run_directory import file_sha256, find_checkpoint, list_checkpoints
from pretrain.run_file import dump_run, load_run
from spectral.lm import SpectralLM

ENGINE_TAG = "engine"


def save_checkpoint(
    engine: Any, run: RunConfig, tokenizer: Path | None, state: dict[str, Any], ranks: Ranks
) -> Path:
    """Write one checkpoint from all ranks, then delete the oldest beyond `keep_last`.

    Args:
        engine: The DeepSpeed engine.
        run: The resolved run.
        tokenizer: File or folder to keep beside the parameters; None for bytes.
        state: JSON-able; must hold `step`.
        ranks: This process among the others.

    Returns:
        The complete checkpoint.

    Raises:
        CheckpointError: It could not be written, on all ranks together; earlier checkpoints are
            untouched.
    """
    root = run.train.output / "checkpoints"
    final = root / f"step-{state['step']:07d}"
    partial = root / f".{final.name}.partial"
    writer = engine.checkpoint_engine
    writer.error = _attempt(lambda: _make_room(root, partial)) if ranks.rank == 0 else ""
    dist.barrier()
    engine.save_checkpoint(str(partial), tag=ENGINE_TAG, save_latest=False)
    parameters = _gather_parameters(engine)
    _check_written(writer.error, partial)
    problem = ""
    if ranks.rank == 0:
        problem = _attempt(lambda: _complete(partial, final, parameters, run, tokenizer, state))
    _check_written(problem, partial)
    return final


def load_engine(engine: Any, checkpoint: Path, run: RunConfig) -> dict[str, Any]:
    """Put a verified checkpoint into the engine; returns its state.

    Raises:
        CheckpointError: It is of another model, or of another layout over ranks.
    """
    saved = load_run(checkpoint / "run.toml")
    if saved.model != run.model:
        ours, theirs = run.model.model_dump(), saved.model.model_dump()
        key = next(key for key in ours if ours[key] != theirs[key])
        raise CheckpointError(
            f"{checkpoint}: another model: model.{key} is {theirs[key]} there, {ours[key]} here"
        )
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    layout = {"ranks": dist.get_world_size(), "zero_stage": run.parallel.zero_stage}
    if state["layout"] != layout:
        raise CheckpointError(
            f"{checkpoint}: written under {state['layout']}; expected the same, found {layout}"
        )
    engine.load_checkpoint(str(checkpoint), tag=ENGINE_TAG)
    return state


def load_model(path: Path) -> tuple[SpectralLM, RunConfig, Path]:
    """Model, run and directory of a checkpoint, without DeepSpeed and without pickle.

    Raises:
        CheckpointError: There is none, it is damaged, or its parameters do not fit its run.
    """
    checkpoint = find_checkpoint(path)
    run = load_run(checkpoint / "run.toml")
    model = SpectralLM(run.model)
    file = checkpoint / "model.safetensors"
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file}: does not fit its run.toml: {error}") from error
    return model.eval(), run, checkpoint


def _make_room(root: Path, partial: Path) -> None:
    """Begin an empty folder; those that an interrupted process left behind go."""
    for stale in root.glob(".step-*.partial"):
        shutil.rmtree(stale)
    partial.mkdir(parents=True)


def _complete(
    partial: Path,
    final: Path,
    parameters: dict[str, Any],
    run: RunConfig,
    tokenizer: Path | None,
    state: dict[str, Any],
) -> None:
    """Rank 0's part: everything that is not DeepSpeed's, the manifest and the name."""
    save_file(parameters, partial / "model.safetensors")
    (partial / "run.toml").write_text(dump_run(run), encoding="utf-8")
    (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if tokenizer is not None and tokenizer.is_dir():
        shutil.copytree(tokenizer, partial / "tokenizer")
    elif tokenizer is not None:
        shutil.copyfile(tokenizer, partial / "tokenizer.model")
    _seal(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in list_checkpoints(run.train.output)[: -run.checkpoint.keep_last]:
        shutil.rmtree(old)


def _attempt(write: Callable[[], None]) -> str:
    """Call it; returns what went wrong, or nothing."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        # safetensors names no file
        return str(error) if getattr(error, "filename", None) else f"model.safetensors: {error}"
    return ""


def _check_written(problem: str, partial: Path) -> None:
    """Compare what went wrong on all ranks; if anything did, remove what was written.

    Raises:
        CheckpointError: On all ranks together.
    """
    problems = {rank: text for rank, text in enumerate(gathered_objects(problem)) if text}
    if not problems:
        return
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    rank, text = next(iter(problems.items()))
    free = shutil.disk_usage(partial.parent.parent).free
    raise agreed(
        CheckpointError(
            f"{partial}: rank {rank} could not write it: {text} ({free / 2**20:,.0f} MiB are free "
            "without it); earlier checkpoints are untouched"
        )
    )


def _gather_parameters(engine: Any) -> dict[str, Any]:
    if engine.zero_optimization_stage() < 3:
        module: nn.Module = engine.module
        return {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    # ZeRO-3 keeps a shard on every rank; every rank takes part in gathering them
    return engine._zero3_consolidated_16bit_state_dict() or {}


def _seal(partial: Path) -> None:
    """Write the manifest and force everything onto the disk before the rename."""
    files = {}
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        entry = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        files[str(file.relative_to(partial))] = entry
        _fsync(file)
    manifest = partial / "manifest.json"
    manifest.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    _fsync(manifest)


def _fsync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
