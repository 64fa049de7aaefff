"""Held-out loss of a checkpoint, with the loss of n-grams on the same tokens."""

import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data_pipeline.config import DataConfig
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.storage.atomic import write_text_atomically
from data_pipeline.stream.held_out import iterate_valid
from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.catalog import run_of, tokenizer_path
from pretrain.checkpoint.load import load_model
from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.ngram import Ints, NgramModel
from pretrain.evaluation.text import evaluate_text
from pretrain.loss import valid_loss

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


def evaluate(command: EvaluateCommand) -> object:
    """Evaluate a model on a split, text files or tasks (`resonance evaluate`).

    Returns:
        A printable result.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: The options contradict one another, or a file cannot be read.
    """
    if command.text and command.tasks:
        raise RunError("--text and --tasks: expected one of them")
    if command.text:
        return evaluate_text(command)
    if command.tasks:
        # lm-eval is an extra
        from pretrain.evaluation.lm_eval_harness import evaluate_tasks

        return evaluate_tasks(command)
    return evaluate_split(command)


def evaluate_split(command: EvaluateCommand) -> Evaluation:
    """Measure a split's losses, and write evaluation.json into the run directory.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, or another tokenizer made it.
    """
    model, run, checkpoint = load_model(command.checkpoint)
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
        data, sequence_length=length, micro_batch_size=command.batch_size, config=run.data
    )
    windows = -(-manifest.tokens // length)
    total = -(-windows // command.batch_size)
    progress = tqdm(batches, total=total, desc="evaluate", unit="batch", disable=None)
    loss, count = valid_loss(model.to(device), progress, device)
    losses = {"model": loss / count}
    if command.baselines:
        ngram = NgramModel(
            (
                document
                for dataset in run.data.datasets
                for document in _documents(dataset.path, run.data)
            ),
            manifest.tokenizer.vocab_size,
            max_order=len(BASELINES),
        )
        sums = ngram.loss(_documents(data, run.data))
        losses |= {name: total / count for name, total in zip(BASELINES, sums, strict=True)}
    result = Evaluation(str(checkpoint), data, int(count), manifest.text_bytes, losses)
    text = json.dumps(result._asdict(), indent=1)
    write_text_atomically(run_of(checkpoint) / "evaluation.json", text)
    return result


def _documents(path: str, config: DataConfig) -> Iterator[Ints]:
    """Token ids of every document of a split, in the order of its shards."""
    manifest = load_manifest(path, config.storage)
    reader = ShardReader(path, manifest, config)
    for shard, entry in enumerate(manifest.shards):
        for row in range(entry.samples):
            yield np.asarray(reader.tokens(shard, row)).astype(np.int64)
