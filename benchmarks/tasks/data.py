"""Tasks in shards: sentences made by rule, and tables of texts and labels."""

import csv
import io
import random
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.build.build import build
from data_pipeline.build.stdlib_corpus import stdlib_files
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import BuildConfig, DataConfig, ReadConfig, TokenizerTrainConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.held_out import iterate_valid

KINDS = ("spectral", "transformer")


class Budget(NamedTuple):
    """Sizes of all runs."""

    dim: int
    layers: int
    steps: int
    rows: int
    length: int
    vocab: int
    sentences: int
    seeds: int
    rates: dict[str, float]


class Task(NamedTuple):
    """A task in shards.

    Attributes:
        name: Its name.
        folder: Folder of train/ and valid/.
        tokenizer: Tokenizer of the shards.
    """

    name: str
    folder: Path
    tokenizer: str


def word_order(budget: Budget) -> list[tuple[str, str]]:
    """Sentences, and whether subject and object are exchanged."""
    words: Counter[str] = Counter()
    for path in list(stdlib_files())[:200]:
        source = io.BytesIO(path.read_bytes())
        try:
            for token in tokenize.tokenize(source.readline):
                if token.type == tokenize.COMMENT:
                    words.update(w for w in token.string.lower().split() if w.isalpha())
        except (tokenize.TokenError, SyntaxError):
            continue
    common = sorted(w for w, _ in words.most_common(160) if len(w) > 3)
    generator = random.Random(0)
    nouns, verbs = common[::2], common[1::2]
    animate = set(nouns[::2])
    subjects, objects = sorted(animate), sorted(set(nouns) - animate)
    rows = []
    for _ in range(budget.sentences):
        subject, verb, other = map(generator.choice, (subjects, verbs, objects))
        exchanged = generator.random() < 0.5
        pair = (other, subject) if exchanged else (subject, other)
        # words between nouns and verb: no pair of neighbours tells
        first, second = (f"{noun} {generator.choice(verbs)}" for noun in pair)
        rows.append((f"the {first} {verb} the {second}", "exchanged" if exchanged else "plain"))
    return rows


def make_task(name: str, source: Path, folder: Path, budget: Budget, label: str) -> Task:
    """The shards of a table, with a tokenizer of its own."""
    model = str(folder / "tokenizer.model")
    texts = folder / "texts.txt"
    with source.open(encoding="utf-8", newline="") as file:
        rows = [row["text"] for row in csv.DictReader(file)]
    texts.write_text("\n".join(rows), encoding="utf-8")
    size = max(264, budget.vocab)
    config = TokenizerTrainConfig(inputs=(str(texts),), output=model, vocab_size=size)
    train_tokenizer(config)
    build(
        BuildConfig(
            sources=(str(source),),
            read=ReadConfig(label_key=label),
            kind="labelled",
            tokenizer=model,
            valid_fraction=0.1,
            output=str(folder / "data"),
        )
    )
    return Task(name, folder / "data", model)


def batches_of(task: Task, split: str, budget: Budget, rows: int) -> Iterator[Batch]:
    """All texts of a split, in order."""
    return iterate_valid(
        str(task.folder / split),
        sequence_length=budget.length,
        micro_batch_size=rows,
        config=DataConfig(long_texts="cut"),
    )
