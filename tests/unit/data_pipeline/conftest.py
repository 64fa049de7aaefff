"""Small corpora and datasets, made once from text whose every document is recognisable."""

import random
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from data_pipeline.build.build import build
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import BuildConfig, TokenizerTrainConfig

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

WORDS = ("spectral", "mode", "decays", "while", "the", "carried", "state", "rotates", "past")


def make_text(seed: int, num_words: int) -> str:
    """Return text that no other seed gives."""
    generator = random.Random(seed)
    words = [generator.choice(WORDS) for _ in range(num_words)]
    return f"document {seed} " + " ".join(words) + "\n"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 text files, from a few words to a few hundred."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(60):
        text = make_text(number, num_words=1 + number**2 % 211)
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as bytes, in about ten training shards and a held-out split."""
    output = tmp_path_factory.mktemp("dataset") / "built"
    build(
        BuildConfig(
            sources=(str(corpus),), output=str(output), shard_bytes=4_000, valid_fraction=0.2
        )
    )
    return output


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other documents, for mixtures."""
    folder = tmp_path_factory.mktemp("other")
    for number in range(25):
        text = make_text(1000 + number, num_words=5 + 17 * number % 90)
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    output = folder / "built"
    build(
        BuildConfig(
            sources=(f"{folder}/*.txt",), output=str(output), shard_bytes=3_000, valid_fraction=0
        )
    )
    return output


@pytest.fixture(scope="session")
def train_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a small SentencePiece model on some of the standard library; each kind once."""
    folder = tmp_path_factory.mktemp("tokenizers")
    source = Path(sysconfig.get_path("stdlib")) / "json"

    def train(model_type: str = "bpe") -> Path:
        output = folder / f"{model_type}.model"
        if not output.exists():
            train_tokenizer(
                TokenizerTrainConfig(
                    inputs=(f"{source}/*.py",),
                    output=str(output),
                    vocab_size=600,
                    model_type=model_type,
                    num_threads=1,
                )
            )
        return output

    return train
