"""Loading of checkpoints: into a training engine of any layout, or as a separate model."""

import json
from pathlib import Path
from typing import Any

from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import find_checkpoint
from pretrain.checkpoint.certificate import check_certificate
from pretrain.checkpoint.deepspeed_state import finish_puts
from pretrain.checkpoint.ownership import load_shards
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import read_index, read_pieces, stored_pieces
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.parallel.split_model import empty_model
from pretrain.run_file import load_saved_run
from pretrain.runtime.ranks import agreed, gathered_objects
from spectral.lm import SpectralLM


def load_engine(engine: Any, checkpoint: Path, run: RunConfig) -> dict[str, Any]:
    """Load a verified checkpoint of any layout into an engine; a collective.

    Loads parameters and optimizer states.

    Returns:
        The contents of state.json.

    Raises:
        CheckpointError: It cannot be read, does not fit the model, or this layout's output differs
            from its certificate; on all ranks together.
    """
    problem = ""
    try:
        index = read_index(checkpoint / TENSORS)
        load_shards(
            engine,
            run.optim.state_tensors,
            lambda wanted: read_pieces(checkpoint / TENSORS, wanted, index),
        )
    except CheckpointError as error:
        problem = str(error)
    if problems := [text for text in gathered_objects(problem) if text]:
        raise agreed(CheckpointError(problems[0]))
    finish_puts(engine)
    check_certificate(engine, checkpoint, run)
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state


def load_model(path: Path) -> tuple[SpectralLM, RunConfig, Path]:
    """Model, run and folder of a checkpoint, loaded in one process without DeepSpeed.

    Raises:
        CheckpointError: There is none, it is damaged, or its parameters do not fit its run.
    """
    checkpoint = find_checkpoint(path)
    run = load_saved_run(checkpoint)
    model = empty_model(run.model).to_empty(device="cpu")
    parameters = {f"value/{name}": value.detach() for name, value in model.state_dict().items()}
    stored = {name for name in stored_pieces(checkpoint / TENSORS) if name.startswith("value/")}
    if extra := sorted(stored - set(parameters)):
        raise CheckpointError(f"{checkpoint}: does not fit its run.toml: unexpected {extra[0]}")
    wanted = {
        name: Shard(tuple(value.shape), [Piece(Box((0,) * value.ndim, tuple(value.shape)), value)])
        for name, value in parameters.items()
    }
    read_pieces(checkpoint / TENSORS, wanted, read_index(checkpoint / TENSORS))
    return model.eval(), run, checkpoint
