"""Loading of Hugging Face folders: parameters and tokenizer, without running their code."""

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json
from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.checkpoint.catalog import tokenizer_path
from pretrain.checkpoint.load import load_model, require_finite, require_room
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.parallel.split_model import empty_model
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from spectral.upgrade import MOVED, nested_keys, parameter_name

PREFIX = "model."
# the output layer of a folder that does not tie it to the embedding
HEAD = "lm_head.weight"


class Pretrained(NamedTuple):
    """A loaded model with its tokenizer.

    Attributes:
        model: The model in evaluation mode, on the CPU.
        tokenizer: Tokenizer of its training data.
        path: Checkpoint or exported folder.
        run: Run that trained it; None for an exported folder.
    """

    model: SpectralLM
    tokenizer: Tokenizer
    path: Path
    run: RunConfig | None


def load_pretrained(path: Path) -> Pretrained:
    """The model of a checkpoint, of a run's newest checkpoint or of an exported folder.

    No code of an exported folder runs.

    Raises:
        CheckpointError: There is none, it is damaged, or it has another architecture.
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
        CheckpointError: It is no Resonance model, or its files do not fit together.
    """
    file = folder / "config.json"
    try:
        table = read_json(file)
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
        raise CheckpointError(f"{file}: expected a configuration of Resonance: {error}") from error
    shards = sorted(folder.glob("*.safetensors"))
    try:
        missing = {_parameter(name) for shard in shards for name in _names(shard)}
        if not missing:
            raise CheckpointError(f"{folder}: does not fit its config.json: no *.safetensors")
        require_room(config, len(missing), folder, file)
        model = empty_model(config).to_empty(device="cpu")
        missing, head = set(model.state_dict()), None
        # one shard at a time: a second copy of a large model would not fit
        for shard in shards:
            state = {_parameter(name): value for name, value in load_file(shard).items()}
            head = state.pop(HEAD, head)
            unexpected = model.load_state_dict(state, strict=False).unexpected_keys
            if unexpected:
                raise RuntimeError(f"unexpected {unexpected[0]}")
            missing -= state.keys()
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: does not fit its config.json: {error}") from error
    if missing:
        raise CheckpointError(f"{folder}: does not fit its config.json: missing {min(missing)}")
    require_finite(model, folder)
    if head is not None and not torch.equal(head.float(), model.table().detach()):
        raise CheckpointError(
            f"{folder}: {HEAD} differs from the embedding; expected the same matrix: Resonance's "
            "output layer is the embedding (tie_word_embeddings)"
        )
    return model.eval()


def _names(shard: Path) -> list[str]:
    with safe_open(shard, framework="pt") as tensors:
        return list(tensors.keys())


def _parameter(name: str) -> str:
    return parameter_name(name.removeprefix(PREFIX))
