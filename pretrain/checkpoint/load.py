"""Loading: into a training engine of any layout, or as a model of its own."""

import json
from pathlib import Path
from typing import Any

from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import find_checkpoint
from pretrain.checkpoint.certificate import check_certificate
from pretrain.checkpoint.ownership import load_shards
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import read_pieces, stored_pieces
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.run_file import load_saved_run
from pretrain.runtime.ranks import agreed, gathered_objects
from spectral.lm import SpectralLM


def load_engine(engine: Any, checkpoint: Path, run: RunConfig) -> dict[str, Any]:
    """Put a verified checkpoint into an engine, whatever layout wrote it; a collective.

    Parameters and optimizer; returns the state, for the rest.

    Raises:
        CheckpointError: It cannot be read, does not fit the model, or this layout does not compute
            what its certificate says; on all ranks together.
    """
    problems = [""]

    def read(wanted: dict[str, Shard]) -> None:
        problem = ""
        try:
            read_pieces(checkpoint / TENSORS, wanted)
        except CheckpointError as error:
            problem = str(error)
        problems[:] = [text for text in gathered_objects(problem) if text]
        if problems:
            raise agreed(CheckpointError(problems[0]))

    load_shards(engine, read)
    check_certificate(engine, checkpoint, run)
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state


def load_model(path: Path) -> tuple[SpectralLM, RunConfig, Path]:
    """Model, run and directory of a checkpoint, in one process, without DeepSpeed.

    Raises:
        CheckpointError: There is none, it is damaged, or its parameters do not fit its run.
    """
    checkpoint = find_checkpoint(path)
    run = load_saved_run(checkpoint)
    model = SpectralLM(run.model)
    parameters = {f"value/{name}": value.detach() for name, value in model.state_dict().items()}
    stored = {name for name in stored_pieces(checkpoint / TENSORS) if name.startswith("value/")}
    if extra := sorted(stored - set(parameters)):
        raise CheckpointError(f"{checkpoint}: does not fit its run.toml: unexpected {extra[0]}")
    wanted = {
        name: Shard(tuple(value.shape), [Piece(Box((0,) * value.ndim, tuple(value.shape)), value)])
        for name, value in parameters.items()
    }
    read_pieces(checkpoint / TENSORS, wanted)
    return model.eval(), run, checkpoint
