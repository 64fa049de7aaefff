"""Checkpoints, exported folders and options of generation: valid examples, and their readers."""

import functools
import json
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch import Tensor

from data_pipeline.input_files import read_json
from data_pipeline.tokenizer import ByteTokenizer
from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.certificate import certify
from pretrain.checkpoint.manifest import seal
from pretrain.checkpoint.tensor_writer import JsonIndexWriter, PieceSavePlanner, Shard
from pretrain.checkpoint.verify import tree, verify
from pretrain.commands import GenerateCommand, VerifyCheckpointCommand
from pretrain.config import RunConfig
from pretrain.generation.generate import generate
from pretrain.huggingface.export import write_folder
from pretrain.huggingface.load import load_pretrained
from pretrain.parallel.matrices import state_names
from pretrain.quantization.quantize import quantize_model
from pretrain.reporting.charts import charts_of
from pretrain.reporting.report import read_runs
from pretrain.reporting.tables import environment, evaluations, glance, timeline
from pretrain.run_file import dump_run
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from tests.fuzz.kinds import Kind, mutated_toml
from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.run_folders import made_up_run

MODEL = ModelConfig(
    vocab_size=259,
    dim=16,
    num_layers=2,
    num_heads=2,
    num_modes=4,
    conv_chunk=8,
    recall_chunk=8,
    ffn_dim=16,
)


def tiny_model() -> SpectralLM:
    """A model of two layers."""
    torch.manual_seed(0)
    return SpectralLM(MODEL).eval()


def write_checkpoint(folder: Path, model: SpectralLM) -> None:
    """Write a checkpoint as one rank writes it, without a training engine."""
    run = RunConfig(model=MODEL).model_dump(mode="json")
    run["data"]["sequence_length"] = 24
    checked = RunConfig.model_validate(run)
    tensors: dict[str, Tensor] = {}
    state_of = state_names(checked)
    for name, parameter in model.named_parameters():
        tensors[f"value/{name}"] = parameter.detach()
        for kind in state_of(name):
            tensors[f"{kind}/{name}"] = torch.zeros_like(parameter)
        tensors[f"step/{name}"] = torch.ones(1)
    shards = {
        name: Shard(tuple(value.shape), [Piece(Box((0,) * value.ndim, tuple(value.shape)), value)])
        for name, value in tensors.items()
    }
    (folder / "tensors").mkdir()
    writer = JsonIndexWriter(folder / "tensors")
    with warnings.catch_warnings(action="ignore"):
        # that a single process saves is what is meant
        dcp.save(shards, storage_writer=writer, planner=PieceSavePlanner(), no_dist=True)
    state = {
        "step": 1,
        "tokens": 8,
        "data": {"step": 1},
        "schedule": {"steps": 1},
        "random": {"seed": 0},
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "certificate.json").write_text(json.dumps(certify(model, checked)))
    (folder / "run.toml").write_text(dump_run(checked))
    seal(folder, {})


def _checkpoint(folder: Path) -> None:
    write_checkpoint(folder, tiny_model())


def _seal_again(folder: Path, changed: Path) -> None:
    """Let the manifest agree with a changed file: the damage is deeper."""
    manifest = folder / "manifest.json"
    if changed != manifest:
        manifest.unlink()
        seal(folder, {})


def read_checkpoint(folder: Path) -> None:
    """What `checkpoint inspect` and `verify` do."""
    try:
        tree(folder)
    finally:
        verify(VerifyCheckpointCommand(checkpoint=folder))


def _export(folder: Path) -> None:
    write_folder(folder, tiny_model(), ByteTokenizer())


def _quantized(folder: Path) -> None:
    model = tiny_model()
    _, names = quantize_model(model, 4)
    polar = {"bits": 4, "rotate": True, "names": names}
    write_folder(folder, model, ByteTokenizer(), polar=polar)


def _run_directory(folder: Path) -> None:
    made_up_run(folder / "run", learning_rate=1e-3)


def read_run_directory(folder: Path) -> None:
    """What `report` shows."""
    runs = read_runs([folder / "run"])
    for show in (charts_of, glance, evaluations, timeline, environment):
        show(runs)


def read_export(folder: Path) -> None:
    """Load an exported folder."""
    load_pretrained(folder)


def _options(folder: Path) -> None:
    command = GenerateCommand(checkpoint=folder, max_tokens=3)
    table = command.model_dump(mode="json", exclude={"checkpoint", "prompts", "output"})
    (folder / "options.json").write_text(json.dumps(table | {"prompt": "ab"}))


@functools.lru_cache
def _checkpoint_of_tests() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="resonance-fuzz-"))
    write_checkpoint(folder, tiny_model())
    return folder


def read_options(folder: Path) -> None:
    """Generate a few tokens with these options; impossible ones are refused as by the shell."""
    table = read_json(folder / "options.json")
    if not isinstance(table, dict):
        return
    for key in ("max_tokens", "min_tokens"):
        if isinstance(table.get(key), int):
            table[key] = min(table[key], 20)
    try:
        command = GenerateCommand.model_validate(table | {"checkpoint": _checkpoint_of_tests()})
    except ValidationError:
        return
    generate(command)


KINDS = {
    "checkpoint": Kind(
        _checkpoint,
        read_checkpoint,
        {"*.json": mutated_json, "tensors/index.json": mutated_json},
        _seal_again,
    ),
    "checkpoint, bytes": Kind(
        _checkpoint,
        read_checkpoint,
        {"*.json": mutated_bytes, "tensors/*": mutated_bytes, "run.toml": mutated_toml},
        _seal_again,
    ),
    "export": Kind(
        _export,
        read_export,
        {"*.json": mutated_json, "*.safetensors": mutated_bytes},
    ),
    "quantized": Kind(
        _quantized,
        read_export,
        {"config.json": mutated_json, "*.safetensors": mutated_bytes},
    ),
    "run directory": Kind(
        _run_directory,
        read_run_directory,
        {"run/*.json*": mutated_bytes, "run/evaluation.json": mutated_json},
    ),
    "options": Kind(_options, read_options, {"options.json": mutated_json}),
}
