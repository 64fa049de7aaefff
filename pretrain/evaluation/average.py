"""`resonance checkpoint average`: the mean of a run's checkpoints, a checkpoint itself.

It has parameters and no optimizer state. Tensors are read and written in parts, so that only the
evaluation holds a whole model in memory.

Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima (arXiv 1803.05407).
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import list_checkpoints, step_of
from pretrain.checkpoint.certificate import certify
from pretrain.checkpoint.deepspeed_state import VALUE
from pretrain.checkpoint.load import AVERAGE_OF, load_model, read_state
from pretrain.checkpoint.manifest import MANIFEST, publish, seal, verified
from pretrain.checkpoint.resume import check_same_model
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import read_index, read_pieces, stored_pieces
from pretrain.checkpoint.tensor_writer import Shard, StreamedWriter
from pretrain.commands import AverageCommand, EvaluateCommand
from pretrain.errors import CheckpointError, RunError
from pretrain.evaluation.split import open_split
from pretrain.loss import valid_sums
from pretrain.optim_config import AVERAGE
from pretrain.run_file import load_saved_run

# numbers that are read at a time, 64 MiB
BATCH_ELEMENTS = 1 << 24


class Average(NamedTuple):
    """A mean of checkpoints.

    Attributes:
        path: Its folder.
        steps: Steps of the checkpoints.
        losses: Nats per token on the run's held-out split, by name; empty if not evaluated.
    """

    path: Path
    steps: list[int]
    losses: dict[str, float]

    def __str__(self) -> str:
        steps = ", ".join(map(str, self.steps))
        lines = [f"{self.path}: the mean of step{'s' * (len(self.steps) > 1)} {steps}"]
        return "\n".join(lines + [f"{n:<24}{x:>12.4f} nats" for n, x in self.losses.items()])


def average(command: AverageCommand) -> Average:
    """Write the mean of checkpoints and evaluate it beside the newest (`checkpoint average`).

    Raises:
        RunError: There are too few checkpoints, or the output exists.
        CheckpointError: A checkpoint is damaged, has another model or lacks what is averaged.
    """
    checkpoints = _chosen(command)
    steps = [step_of(checkpoint) for checkpoint in checkpoints]
    kind = AVERAGE if command.exponential else VALUE
    label = "-".join(map(str, steps)) + ("-exponential" if command.exponential else "")
    output = command.output or command.run / "averages" / f"steps-{label}"
    if output.exists():
        raise RunError(f"{output} exists already; expected a new folder: give another --output")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_tensors(checkpoints, kind, partial / TENSORS)
    newest = checkpoints[-1]
    for name in ("run.toml", "tokenizer.model"):
        if (newest / name).exists():
            shutil.copyfile(newest / name, partial / name)
    if (newest / "tokenizer").is_dir():
        shutil.copytree(newest / "tokenizer", partial / "tokenizer")
    _write_json(partial / "state.json", read_state(newest) | {AVERAGE_OF: steps})
    seal(partial, {})
    if command.evaluate:
        model, run, _ = load_model(partial)
        _write_json(partial / "certificate.json", certify(model, run))
        del model
        (partial / MANIFEST).unlink()
        seal(partial, {})
    publish(partial, output)
    losses = {}
    if command.evaluate and load_saved_run(newest).data.valid:
        losses = {f"step {steps[-1]}": _loss(newest), "mean": _loss(output)}
    return Average(output, steps, losses)


def _chosen(command: AverageCommand) -> list[Path]:
    """The verified checkpoints to average, oldest first."""
    checkpoints = list_checkpoints(command.run)
    last = 1 if command.exponential else command.last
    if len(checkpoints) < last or not checkpoints:
        raise RunError(
            f"--last is {last}: {command.run} has {len(checkpoints)} checkpoints; expected at most "
            "as many. checkpoint.keep_last and checkpoint.keep_every keep more of them"
        )
    chosen = [verified(checkpoint) for checkpoint in checkpoints[-last:]]
    run = load_saved_run(chosen[-1])
    for checkpoint in chosen:
        check_same_model(checkpoint, run)
    if command.exponential and not run.optim.average_decay:
        raise CheckpointError(
            f"{chosen[-1]}: optim.average_decay is 0, so there is no exponential average; expected "
            "a run that keeps one, or no --exponential"
        )
    return chosen


def _write_tensors(checkpoints: Sequence[Path], kind: str, folder: Path) -> None:
    folders = [checkpoint / TENSORS for checkpoint in checkpoints]
    sources = [(each, read_index(each)) for each in folders]
    writer = StreamedWriter(folder)
    for stored, (shape, _) in stored_pieces(folders[-1]).items():
        prefix, _, name = stored.partition("/")
        if prefix != VALUE:
            continue
        for box in _parts(shape):
            total = torch.zeros(box.sizes, dtype=torch.float64)
            for source, index in sources:
                values = torch.empty(box.sizes)
                wanted = {f"{kind}/{name}": Shard(shape, [Piece(box, values)])}
                read_pieces(source, wanted, index)
                total += values
            mean: Tensor = (total / len(sources)).float()
            writer.add(stored, shape, Piece(box, mean))
    writer.finish()


def _parts(shape: tuple[int, ...]) -> Iterator[Box]:
    """Boxes of at most about `BATCH_ELEMENTS` numbers that make up a tensor."""
    rows = max(1, BATCH_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], rows):
        yield Box((first, *(0 for _ in shape[1:])), (min(rows, shape[0] - first), *shape[1:]))


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _loss(checkpoint: Path) -> float:
    split = open_split(EvaluateCommand(checkpoint=checkpoint))
    loss, count, _ = valid_sums(split.model, split.batches, split.device)
    return loss / count
