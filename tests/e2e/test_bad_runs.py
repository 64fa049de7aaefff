"""Runs that cannot be: one message (what, where, found, expected) and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.e2e.commands import files_below, resonance


@pytest.fixture(scope="module")
def finished(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file whose run, beside it, is finished."""
    folder = tmp_path_factory.mktemp("finished")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0, steps=3)
    resonance("pretrain", run_file)
    return run_file


def _copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage; returns its checkpoint."""
    shutil.copytree(finished.parent / "run", tmp_path / "run")
    return next((tmp_path / "run" / "checkpoints").glob("step-*"))


def _flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_byte, "its SHA-256 differs from the manifest"),
        (_cut_short, "bytes; expected"),
        (Path.unlink, "found no file; expected"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    damage: Callable[[Path], None], message: str, finished: Path, tmp_path: Path
) -> None:
    file = _copy(finished, tmp_path) / "tensors" / "__0_0.distcp"
    damage(file)
    printed = resonance("generate", tmp_path / "run", status=1)
    assert message in printed
    assert str(file) in printed
    assert "Traceback" not in printed


def test_a_checkpoint_of_another_model_is_refused(
    small_corpus: SmallCorpus, finished: Path, tmp_path: Path
) -> None:
    _copy(finished, tmp_path)
    before = files_below(tmp_path / "run" / "checkpoints")
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=9)
    printed = resonance("pretrain", run_file, "--resume", "--model.dim", 64, status=1)
    assert "another model: model.dim is 32 there, 64 here" in printed
    assert files_below(tmp_path / "run" / "checkpoints") == before


def test_a_shard_that_is_cut_short_is_named(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    shutil.copytree(small_corpus.train, tmp_path / "train")
    shard = next((tmp_path / "train").glob("*.tar"))
    _cut_short(shard)
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=3)
    text = run_file.read_text().replace(
        json.dumps(str(small_corpus.train)), json.dumps(str(tmp_path / "train"))
    )
    run_file.write_text(text)
    printed = resonance("pretrain", run_file, status=1)
    assert f"{shard}: {shard.stat().st_size} bytes; expected {shard.stat().st_size + 1}" in printed
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.vocab-size", "100"], "model.vocab_size is 100; expected at least"),
        (["--data.tokenizer", "byte"], "data.tokenizer byte has fingerprint"),
        (["--train.global-batch-size", "3", "--train.micro-batch-size", "2"], "got 3 and 2"),
        (["--data.valid", "/nowhere"], "/nowhere"),
        (["--train.stesp", "1"], "--train.steps"),
    ],
)
def test_impossible_runs_are_refused(
    flags: list[str], message: str, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml")
    status = 2 if flags[0] == "--train.stesp" or "got 3" in message else 1
    printed = resonance("pretrain", run_file, *flags, status=status)
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()
