"""Corpora of the quality benchmark: one tokenizer, one token stream, windows at random positions.

Shape letters: B batch, T time (tokens).
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import TokenizerTrainConfig
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

VOCAB_SIZE = 4_096
VALID_WINDOWS = 64
# a pair of tokens that training has shown more often is memorised, not recalled
RARE_PAIR = 100


class Corpus(NamedTuple):
    """Token ids of training and validation text, documents end to end after a BOS each."""

    name: str
    train: np.ndarray
    valid: np.ndarray


def prepare(data: Path, names: list[str], work: Path, megabytes: float) -> list[Corpus]:
    """Tokenize NAME.train.jsonl.xz and NAME.valid.jsonl.xz of every name, once.

    Args:
        data: Folder of the files; lines of JSON with a text.
        names: Corpora; one tokenizer is trained on all of them.
        work: Where tokenizer and token ids are kept.
        megabytes: Text that is read of each training file.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = work / "tokenizer.model"
    if not model.exists():
        sample = work / "sample.jsonl"
        with sample.open("w", encoding="utf-8") as file:
            for name in names:
                path = data / f"{name}.train.jsonl.xz"
                for text in _texts(path, min(megabytes, 8.0)):
                    file.write(json.dumps({"text": text}) + "\n")
        train_tokenizer(
            TokenizerTrainConfig(inputs=(str(sample),), output=str(model), vocab_size=VOCAB_SIZE)
        )
    tokenizer = load_tokenizer(model)
    corpora = []
    for name in names:
        parts = []
        for split, limit in (("train", megabytes), ("valid", megabytes / 10)):
            saved = work / f"{name}.{split}.npy"
            if not saved.exists():
                np.save(saved, _encode(tokenizer, data / f"{name}.{split}.jsonl.xz", limit))
            parts.append(np.load(saved))
        corpora.append(Corpus(name, *parts))
    return corpora


def batches(
    tokens: np.ndarray, batch: int, length: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens_BT, labels_BT) at random positions: the same for every model."""
    generator = np.random.default_rng(seed)
    while True:
        starts = generator.integers(0, len(tokens) - length - 1, size=(batch, 1))
        window = torch.from_numpy(tokens[starts + np.arange(length + 1)].astype(np.int64))
        yield window[:, :-1], window[:, 1:]


def valid_windows(corpus: Corpus, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens_BT, labels_BT, recalled_BT) of evenly spaced windows of the validation text.

    A label is recalled if its pair with the token before it came earlier in the window and is rare
    in training (the "associative recall hits" of Arora et al. 2023, arXiv 2312.04927).
    """
    places = np.linspace(0, len(corpus.valid) - length - 1, VALID_WINDOWS).astype(np.int64)
    window = corpus.valid[places[:, None] + np.arange(length + 1)].astype(np.int64)
    pairs = window[:, :-1] * VOCAB_SIZE + window[:, 1:]
    counts = np.bincount(
        corpus.train[:-1].astype(np.int64) * VOCAB_SIZE + corpus.train[1:],
        minlength=VOCAB_SIZE * VOCAB_SIZE,
    )
    recalled = np.zeros(pairs.shape, dtype=bool)
    for row in range(len(pairs)):
        _, first = np.unique(pairs[row], return_index=True)
        recalled[row] = True
        recalled[row, first] = False
    recalled &= counts[pairs] <= RARE_PAIR
    tokens = torch.from_numpy(window)
    return tokens[:, :-1], tokens[:, 1:], torch.from_numpy(recalled)


def _texts(path: Path, megabytes: float) -> Iterator[str]:
    """Documents of that much text together, the last one cut; at least one document."""
    left = int(megabytes * 1e6)
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"][:left]
            yield text
            left -= len(text)
            if left <= 0:
                return


def _encode(tokenizer: Tokenizer, path: Path, megabytes: float) -> np.ndarray:
    ids: list[int] = []
    for text in _texts(path, megabytes):
        ids += [tokenizer.bos_id, *tokenizer.encode(text)]
    return np.array(ids, dtype=np.uint16)
