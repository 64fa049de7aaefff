"""Held-out loss of a checkpoint, with the loss of n-grams on the same tokens."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data_pipeline.config import DataConfig
from data_pipeline.errors import WriteError
from data_pipeline.redaction import redact
from data_pipeline.shards.manifest import Manifest, load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.storage.atomic import write_text_atomically
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.held_out import iterate_valid
from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.catalog import run_of, tokenizer_path
from pretrain.checkpoint.load import load_model
from pretrain.commands import EvaluateCommand
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.evaluation.ngram import Ints, NgramModel
from pretrain.loss import valid_sums
from pretrain.objectives.build import preparing_of
from spectral.lm import SpectralLM

BASELINES = ("unigram", "bigram", "trigram")


class Evaluation(NamedTuple):
    """Losses on a held-out split.

    Attributes:
        checkpoint: Checkpoint that was measured.
        data: Split that it was measured on.
        num_tokens: Number of predicted tokens.
        num_bytes: UTF-8 bytes of their text.
        losses: Nats per token, by name: "model" and, if requested, the baselines.
    """

    checkpoint: str
    data: str
    num_tokens: int
    num_bytes: int
    losses: dict[str, float]

    def bits_per_byte(self, name: str) -> float:
        """Loss in bits per byte, which does not depend on the tokenizer."""
        return self.losses[name] * self.num_tokens / self.num_bytes / math.log(2.0)

    def __str__(self) -> str:
        lines = [
            f"{self.checkpoint} on {self.data}: {self.num_tokens:,} tokens, "
            f"{self.num_bytes:,} bytes",
            f"{'':<10}{'nats/token':>12}{'perplexity':>12}{'bits/byte':>12}",
        ]
        lines += [
            f"{name:<10}{loss:>12.4f}{math.exp(loss):>12.2f}{self.bits_per_byte(name):>12.4f}"
            for name, loss in self.losses.items()
        ]
        return "\n".join(lines)


class Split(NamedTuple):
    """A checkpoint's model and the batches of a held-out split.

    Attributes:
        model: Model in evaluation mode, on the device.
        run: Run of the checkpoint.
        checkpoint: Checkpoint that the model is from.
        data: Folder or URL of the split.
        manifest: Manifest of the split.
        batches: Batches of tokens, segment ids and labels, with a progress bar; once.
        device: Device of the model.
    """

    model: SpectralLM
    run: RunConfig
    checkpoint: Path
    data: str
    manifest: Manifest
    batches: Iterable[Batch]
    device: torch.device


def open_split(command: EvaluateCommand) -> Split:
    """The model and the split that a command names.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, or another tokenizer made it.
    """
    model, run, checkpoint = load_model(command.checkpoint)
    run = _without_permissions(run)
    data = command.data or run.data.valid
    if not data:
        raise RunError(f"{checkpoint}/run.toml: data.valid is empty; name a split with --data")
    manifest = load_manifest(data, run.data.storage)
    tokenizer = load_tokenizer(tokenizer_path(checkpoint))
    if manifest.tokenizer.fingerprint != tokenizer.fingerprint:
        raise RunError(
            f"{data}: tokens were made by {manifest.tokenizer.fingerprint[:12]}; expected the "
            f"checkpoint's tokenizer, {tokenizer.fingerprint[:12]}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    length = command.sequence_length or run.data.sequence_length
    batches = iterate_valid(
        data,
        sequence_length=length,
        micro_batch_size=command.batch_size,
        config=run.data,
        preparing=preparing_of(run),
    )
    windows = -(-manifest.tokens // length)
    total = -(-windows // command.batch_size)
    progress = tqdm(batches, total=total, desc="evaluate", unit="batch", disable=None)
    return Split(model.to(device), run, checkpoint, data, manifest, progress, device)


def _without_permissions(run: RunConfig) -> RunConfig:
    """A checkpoint's run without its cache folder and permissions: anybody may have written it."""
    storage = run.data.storage.model_copy(
        update={"allow_pipe": False, "allow_unsafe_members": False}
    )
    return run.model_copy(
        update={"data": run.data.model_copy(update={"cache": "", "storage": storage})}
    )


def evaluate_split(command: EvaluateCommand) -> Evaluation:
    """Measure a split's losses, and write evaluation.json into the run directory.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, or another tokenizer made it.
    """
    split = open_split(command)
    loss, count, _ = valid_sums(split.model, split.batches, split.device)
    losses = {"model": loss / count}
    if command.baselines:
        ngram = NgramModel(
            (
                document
                for dataset in split.run.data.datasets
                for document in _documents(dataset.path, split.run.data)
            ),
            split.manifest.tokenizer.vocab_size,
            max_order=len(BASELINES),
        )
        sums = ngram.loss(_documents(split.data, split.run.data))
        losses |= {name: total / count for name, total in zip(BASELINES, sums, strict=True)}
    result = Evaluation(
        str(split.checkpoint), redact(split.data), int(count), split.manifest.text_bytes, losses
    )
    text = json.dumps(result._asdict(), indent=1)
    try:
        write_text_atomically(run_of(split.checkpoint) / "evaluation.json", text)
    except WriteError as error:
        # the result is printed all the same: it may have taken hours
        print(f"{error} The result is not stored.", file=sys.stderr)
    return result


def _documents(path: str, config: DataConfig) -> Iterator[Ints]:
    """Token ids of every document of a split, in the order of its shards."""
    manifest = load_manifest(path, config.storage)
    reader = ShardReader(path, manifest, config)
    for shard, entry in enumerate(manifest.shards):
        for row in range(entry.samples):
            yield np.asarray(reader.tokens(shard, row)).astype(np.int64)
