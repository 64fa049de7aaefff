"""BLEU and chrF of the targets that a text-to-text model writes for a held-out split."""

import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipeline.errors import WriteError
from data_pipeline.redaction import redact
from data_pipeline.shards.reader import ShardReader
from data_pipeline.storage.atomic import write_text_atomically
from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.catalog import run_of, tokenizer_path
from pretrain.commands import EvaluateCommand, GenerationOptions
from pretrain.errors import RunError
from pretrain.evaluation.split import Split, open_split
from pretrain.generation.pairs import PairWriter
from pretrain.huggingface.load import Pretrained
from pretrain.loss import valid_sums


class PairEvaluation(NamedTuple):
    """Figures of a text-to-text model on a split.

    Attributes:
        checkpoint: Checkpoint that was measured.
        data: Split that it was measured on.
        num_pairs: Number of pairs whose target was written, greedily.
        loss: Nats per target token, of the whole split.
        bleu, chrf: Scores of sacrebleu against the targets; `copied_bleu` and `copied_chrf` are
            those of the sources themselves.
        signature: Sacrebleu's name for how BLEU was computed.
    """

    checkpoint: str
    data: str
    num_pairs: int
    loss: float
    bleu: float
    chrf: float
    copied_bleu: float
    copied_chrf: float
    signature: str

    def __str__(self) -> str:
        return (
            f"{self.checkpoint} on {self.data}: {self.num_pairs:,} pairs, {self.loss:.4f} "
            f"nats/target token\nBLEU {self.bleu:.2f} (copied sources: {self.copied_bleu:.2f}), "
            f"chrF {self.chrf:.2f} ({self.copied_chrf:.2f}); {self.signature}"
        )


def evaluate_pairs(command: EvaluateCommand) -> PairEvaluation:
    """Write the targets of a split, compare them, and write evaluation.json into the run.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, another tokenizer made it, or sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise RunError(f"{error.name} is not installed; expected the extra [pairs]") from error
    split = open_split(command)
    loss, count, _ = valid_sums(split.model, split.batches, split.device)
    tokenizer = load_tokenizer(tokenizer_path(split.checkpoint))
    # targets may be longer than their sources, and not than a row
    options = GenerationOptions(temperature=0.0, max_tokens=split.run.data.sequence_length)
    writer = PairWriter(Pretrained(split.model, tokenizer, split.checkpoint, split.run), options)
    pairs = list(_pairs(split, command.limit))
    written: list[str] = []
    for first in tqdm(range(0, len(pairs), command.batch_size), unit="batch", disable=None):
        batch = [source for source, _ in pairs[first : first + command.batch_size]]
        longest = max(len(target) for _, target in pairs[first : first + command.batch_size])
        for tokens in writer.continued(batch, max_new_tokens=2 * longest):
            written.append(tokenizer.decode(tokens))
    sources = [tokenizer.decode(source[1:-1]) for source, _ in pairs]
    targets = [tokenizer.decode(target[1:-1]) for _, target in pairs]
    bleu, chrf = BLEU(), CHRF()
    result = PairEvaluation(
        str(split.checkpoint),
        redact(split.data),
        len(pairs),
        loss / max(count, 1.0),
        bleu.corpus_score(written, [targets]).score,
        chrf.corpus_score(written, [targets]).score,
        bleu.corpus_score(sources, [targets]).score,
        chrf.corpus_score(sources, [targets]).score,
        str(bleu.get_signature()),
    )
    try:
        text = json.dumps(result._asdict(), indent=1)
        write_text_atomically(run_of(split.checkpoint) / "evaluation.json", text)
    except WriteError as error:
        print(f"{error} The result is not stored.", file=sys.stderr)
    return result


def _pairs(split: Split, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """Source and target ids, each BOS, tokens, EOS, of the first pairs of a split."""
    reader = ShardReader(split.data, split.manifest, split.run.data)
    eos, done = split.manifest.tokenizer.eos_id, 0
    for shard, entry in enumerate(split.manifest.shards):
        for row in range(entry.samples):
            if limit and done == limit:
                return
            stored: Any = np.asarray(reader.tokens(shard, row)).astype(np.int64)
            middle = int(np.argmax(stored == eos)) + 1
            yield stored[:middle].tolist(), stored[middle:].tolist()
            done += 1
