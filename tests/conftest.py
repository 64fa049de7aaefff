"""Fixtures that several kinds of tests share."""

import copy
import json
import shutil
import signal
from pathlib import Path

import pytest

from data_pipeline.build.build import build
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import BuildConfig, TokenizerTrainConfig
from tests.e2e.commands import resonance
from tests.left_out import (  # noqa: F401  # hooks
    pytest_deselected,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.losses import STEPS, Step, losses


def pytest_configure() -> None:
    """Undo what nohup and a shell's background jobs do: runs would inherit ignored signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, handler)


class SmallCorpus:
    """A corpus that is built in a second: the source of the standard library's json package.

    Attributes:
        folder: Where it is.
        tokenizer: A SentencePiece model.
        train, valid: Folders with manifests.
    """

    def __init__(self, folder: Path, shard_bytes: int = 0):
        source = str(Path(json.__file__).parent / "*.py")
        self._place(folder)
        config = TokenizerTrainConfig(inputs=(source,), output=str(self.tokenizer), vocab_size=512)
        train_tokenizer(config)
        build(
            BuildConfig(
                sources=(source,),
                tokenizer=str(self.tokenizer),
                output=str(folder / "data"),
                valid_fraction=0.3,
                shard_bytes=shard_bytes,
            )
        )

    def _place(self, folder: Path) -> None:
        self.folder, self.tokenizer = folder, folder / "tokenizer.model"
        self.train, self.valid = folder / "data" / "train", folder / "data" / "valid"

    def copied_to(self, folder: Path) -> "SmallCorpus":
        """A copy in a new folder."""
        other = copy.copy(self)
        other._place(shutil.copytree(self.folder, folder))
        return other

    def run_file(self, path: Path, *, model: str = "", workers: int = 1, **train: object) -> Path:
        """Write a run of a tiny model on this corpus, with output beside the file.

        Args:
            path: The file.
            model: Further lines of its [model] table.
            workers: Reader processes per rank.
            train: Keys of its [train] table.
        """
        values = {
            "output": str(path.parent / "run"),
            "steps": 6,
            "global_batch_size": 4,
            "micro_batch_size": 1,
            "validate_every": 3,
            "wandb": "disabled",
        } | train
        table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        path.write_text(
            f"""
[model]
vocab_size = 512
dim = 32
num_layers = 2
num_heads = 4
num_modes = 4
conv_chunk = 32
recall_chunk = 16
ffn_dim = 48
{model}

[data]
datasets = [{{ path = {json.dumps(str(self.train))} }}]
valid = {json.dumps(str(self.valid))}
tokenizer = {json.dumps(str(self.tokenizer))}
sequence_length = 96
num_workers = {workers}

[optim]
warmup_steps = 2
# smaller steps: AdamW makes the rounding errors of another order of sums grow
learning_rate = 1e-3

[train]
{table}

[checkpoint]
every = 3

[launch]
processes = 2
""",
            encoding="utf-8",
        )
        return path


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    return SmallCorpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def undisturbed(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The losses of a run of two ranks that nothing happens to."""
    file = small_corpus.run_file(tmp_path_factory.mktemp("undisturbed") / "run.toml", steps=STEPS)
    resonance("launch", "local", file)
    return losses(file.parent / "run")
