"""Loading of checkpoints: into a training engine of any layout, or as a separate model."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json
from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import IMPORTED_FROM, find_checkpoint
from pretrain.checkpoint.certificate import check_certificate
from pretrain.checkpoint.deepspeed_state import StateOf, finish_puts
from pretrain.checkpoint.ownership import load_shards
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import read_index, read_pieces, stored_pieces
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.parallel.matrices import state_names
from pretrain.parallel.split_model import empty_model
from pretrain.run_file import load_saved_run
from pretrain.runtime.ranks import agreed, gathered_objects
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# entry of state.json: the steps whose mean a checkpoint without optimizer state is
AVERAGE_OF = "average_of"


def load_engine(engine: Any, checkpoint: Path, run: RunConfig) -> dict[str, Any]:
    """Load a verified checkpoint of any layout into an engine; a collective.

    Loads parameters and optimizer states; the state of another optimizer is begun again.

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
            state_names(run),
            _stored_state(checkpoint, run),
            lambda wanted: read_pieces(checkpoint / TENSORS, wanted, index),
        )
    except CheckpointError as error:
        problem = str(error)
    if problems := [text for text in gathered_objects(problem) if text]:
        raise agreed(CheckpointError(problems[0]))
    finish_puts(engine)
    check_certificate(engine, checkpoint, run)
    return read_state(checkpoint)


def _stored_state(checkpoint: Path, run: RunConfig) -> StateOf:
    """Names of the state tensors of a parameter that a checkpoint has for the run's optimizer."""
    saved = load_saved_run(checkpoint)
    if saved.optim.name != run.optim.name or lacks_optimizer(read_state(checkpoint)):
        return lambda _: ()
    return state_names(saved)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of state.json.

    Raises:
        CheckpointError: It is missing, or no object.
    """
    file = checkpoint / "state.json"
    try:
        state = read_json(file)
    except (OSError, DataError) as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: found a {type(state).__name__}; expected an object")
    return state


def lacks_optimizer(state: dict[str, Any]) -> bool:
    """Whether a checkpoint with this state.json has parameters alone."""
    return AVERAGE_OF in state or IMPORTED_FROM in state


def load_model(path: Path) -> tuple[SpectralLM, RunConfig, Path]:
    """Model, run and folder of a checkpoint, loaded in one process without DeepSpeed.

    Raises:
        CheckpointError: There is none, it is damaged, or its parameters do not fit its run.
    """
    checkpoint = find_checkpoint(path)
    run = load_saved_run(checkpoint)
    pieces = stored_pieces(checkpoint / TENSORS)
    require_room(run.model, len(pieces), checkpoint / TENSORS, checkpoint / "run.toml")
    model = empty_model(run.model).to_empty(device="cpu")
    parameters = {f"value/{name}": value.detach() for name, value in model.state_dict().items()}
    stored = {name for name in pieces if name.startswith("value/")}
    if extra := sorted(stored - set(parameters)):
        raise CheckpointError(f"{checkpoint}: does not fit its run.toml: unexpected {extra[0]}")
    wanted = {
        name: Shard(tuple(value.shape), [Piece(Box((0,) * value.ndim, tuple(value.shape)), value)])
        for name, value in parameters.items()
    }
    read_pieces(checkpoint / TENSORS, wanted, read_index(checkpoint / TENSORS))
    require_finite(model, checkpoint)
    return model.eval(), run, checkpoint


def require_room(config: ModelConfig, num_tensors: int, folder: Path, source: Path) -> None:
    """Reject a model that is larger than the files it is stored in, before it is made.

    Args:
        config: The model.
        num_tensors: Number of stored tensors.
        folder: Folder of the files.
        source: File that `config` was read from, for the message.

    Raises:
        CheckpointError: The model has more layers than tensors, or more parameters than bytes.
    """
    num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    found = f"{config.num_layers:,} layers"
    if config.num_layers <= num_tensors:
        num_parameters = sum(value.numel() for value in empty_model(config).parameters())
        if num_parameters <= num_bytes:
            return
        found = f"{num_parameters:,} parameters"
    raise CheckpointError(
        f"{source}: {found}; expected the model that is stored in {num_tensors:,} tensors of "
        f"{num_bytes:,} bytes in {folder}"
    )


def require_finite(model: SpectralLM, where: Path) -> None:
    """Reject a model that cannot compute anything.

    Raises:
        CheckpointError: Names the first parameter with NaN or infinite numbers.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise CheckpointError(
                f"{where}: {name} has numbers that are not finite; expected finite ones: "
                "use an older checkpoint"
            )
