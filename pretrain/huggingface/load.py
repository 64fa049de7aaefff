"""Back from a Hugging Face folder: its parameters and tokenizer, none of its code."""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.checkpoint.catalog import tokenizer_path
from pretrain.checkpoint.load import load_model
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from spectral.upgrade import MOVED, nested_keys, parameter_name

PREFIX = "model."


class Pretrained(NamedTuple):
    """A model that can be used.

    Attributes:
        model: In evaluation mode, on the CPU.
        tokenizer: That made its training data.
        path: The checkpoint, or the exported folder.
        run: That made it; None for an exported folder.
    """

    model: SpectralLM
    tokenizer: Tokenizer
    path: Path
    run: RunConfig | None


def load_pretrained(path: Path) -> Pretrained:
    """Load a checkpoint, a run's newest checkpoint or an exported folder; no code runs that it has.

    Raises:
        CheckpointError: There is none, it is damaged, or is of another architecture.
    """
    if (path / "config.json").is_file():
        model = import_model(path)
        try:
            tokenizer = load_tokenizer(str(path))
        except DataError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{path}: the tokenizer has {tokenizer.vocab_size} ids; expected at most the "
                f"model's vocab_size, {model.config.vocab_size}"
            )
        return Pretrained(model, tokenizer, path, None)
    model, run, checkpoint = load_model(path)
    return Pretrained(model, load_tokenizer(tokenizer_path(checkpoint)), checkpoint, run)


def import_model(folder: Path) -> SpectralLM:
    """The model of an exported folder.

    Raises:
        CheckpointError: It is not one of ours, or its files do not fit together.
    """
    file = folder / "config.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        kind = table.get("model_type")
        if kind != ResonanceConfig.model_type:
            raise CheckpointError(
                f"{file}: model_type is {kind!r}; expected {ResonanceConfig.model_type!r}"
            )
        names = {*ModelConfig.model_fields, *MOVED}
        keys = nested_keys({k: v for k, v in table.items() if k in names})
        config = ModelConfig.model_validate(keys)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: expected a configuration of ours: {error}") from error
    model = SpectralLM(config)
    state: dict[str, Tensor] = {}
    try:
        for shard in sorted(folder.glob("*.safetensors")):
            for name, value in load_file(shard).items():
                state[parameter_name(name.removeprefix(PREFIX))] = value
        model.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: does not fit its config.json: {error}") from error
    return model.eval()
