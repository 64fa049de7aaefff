"""`resonance checkpoint import`: a Hugging Face folder as a checkpoint to train from."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from data_pipeline.tokenizer import tokenizer_files
from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import IMPORTED_FROM
from pretrain.checkpoint.certificate import certify
from pretrain.checkpoint.deepspeed_state import VALUE
from pretrain.checkpoint.manifest import publish, seal
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_writer import StreamedWriter
from pretrain.commands import ImportCommand
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.huggingface.load import load_pretrained
from pretrain.run_file import dump_run
from spectral.lm import SpectralLM


class ImportReport(NamedTuple):
    """An imported checkpoint.

    Attributes:
        output: Its folder.
        num_parameters: Number of parameters.
    """

    output: Path
    num_parameters: int

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.num_parameters:,} parameters; resonance pretrain RUN.toml "
            f"--from {self.output} starts from them, with the [model] of its run.toml"
        )


def import_folder(command: ImportCommand) -> ImportReport:
    """Write a checkpoint of step 0 without optimizer states (`resonance checkpoint import`).

    Raises:
        RunError: The output exists.
        CheckpointError: The folder holds no model of Resonance, or is damaged.
    """
    folder, output = command.folder, command.output
    if output.exists():
        raise RunError(f"{output} exists already; expected a new folder")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise RunError(
            f"{folder}: an adapter without its model; expected a whole one: merge it first with "
            "PEFT's merge_and_unload() and save_pretrained()"
        )
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: no config.json; expected a folder of `checkpoint export`")
    loaded = load_pretrained(folder)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_tensors(loaded.model, partial / TENSORS)
    tokenizer = Path(loaded.tokenizer.path)
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, partial / "tokenizer.model")
    else:
        (partial / "tokenizer").mkdir()
        for file in tokenizer_files(tokenizer):
            shutil.copyfile(file, partial / "tokenizer" / file.name)
    run = RunConfig(model=loaded.model.config)
    (partial / "run.toml").write_text(dump_run(run), encoding="utf-8")
    state = {
        "step": 0,
        "tokens": 0,
        "schedule": {"steps": 0},
        "data": {"step": 0},
        "random": {"seed": run.train.seed},
        IMPORTED_FROM: str(folder.resolve()),
    }
    for name, value in (
        ("state.json", state),
        ("certificate.json", certify(loaded.model, run)),
    ):
        (partial / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
    seal(partial, {})
    publish(partial, output)
    return ImportReport(output, sum(p.numel() for p in loaded.model.parameters()))


def _write_tensors(model: SpectralLM, folder: Path) -> None:
    writer = StreamedWriter(folder)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        piece = Piece(Box((0,) * parameter.ndim, shape), parameter.detach())
        writer.add(f"{VALUE}/{name}", shape, piece)
    writer.finish()
