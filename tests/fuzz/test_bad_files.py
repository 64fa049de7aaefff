"""Cases that once ended in a traceback, a hang or a bomb: each is one message now."""

import bz2
import io
import json
import os
import socket
import sys
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig, DataConfig, ReadConfig, StorageConfig
from data_pipeline.errors import CorruptShardError, DataError
from data_pipeline.input_files import open_regular, read_json
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.storage.files import check_url
from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.manifest import read_manifest, seal, verified
from pretrain.checkpoint.verify import verify
from pretrain.commands import ChatCommand, GenerateCommand, VerifyCheckpointCommand
from pretrain.errors import CheckpointError, RunError
from pretrain.generation.chat import chat
from pretrain.generation.generate import generate
from tests.fuzz.documents import documents
from tests.fuzz.model_kinds import tiny_model, write_checkpoint

STORAGE = StorageConfig()
MIB = 2**20


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    """What is no regular file, by its name in messages."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    names = {"a named pipe": "fifo", "a socket": "socket", "a device": "zero", "a folder": "folder"}
    return {kind: tmp_path / name for kind, name in names.items()}


def test_only_regular_files_are_opened(special: dict[str, Path]) -> None:
    for kind, path in special.items():
        with pytest.raises(DataError, match=f"{path}: found {kind}; expected a regular file"):
            open_regular(path)
    with pytest.raises(DataError, match="not the name of a file"):
        open_regular(Path("a\0b"))


@pytest.mark.parametrize("kind", ["a named pipe", "a device"])
def test_a_special_file_in_a_corpus_is_left_out_and_named(
    kind: str, special: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("a")
    special[kind].rename(corpus / "b.txt")
    assert documents(corpus)[0] == ["a"]
    assert "b.txt" in caplog.text
    with pytest.raises(DataError, match=r"b\.txt: a special file; expected a file, a folder"):
        documents(corpus / "b.txt")


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_a_checkpoint_with_a_special_file_is_refused(
    kind: str, special: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{}")
    seal(checkpoint, {})
    (checkpoint / "state.json").unlink()
    special[kind].rename(checkpoint / "state.json")
    with pytest.raises(CheckpointError, match=f"state.json: found {kind}; expected a regular file"):
        verified(checkpoint)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '"\\ud800"', "", "{", '{"a": 1}x'],
    ids=["lists", "objects", "digits", "surrogate", "empty", "cut", "more"],
)
def test_json_of_no_value_names_its_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"{file}: not readable as JSON \("):
        read_json(file)
    with pytest.raises(CheckpointError, match=r"^there: expected sizes and hashes of"):
        read_manifest(text, "there")


@pytest.mark.parametrize(
    "config",
    ["[]", "{", '{"eos_token": 3}', '{"eos_token": ["a"]}', '{"eos_token": {"content": 1}}'],
)
def test_a_broken_tokenizer_config_is_named(config: str, tmp_path: Path) -> None:
    import tokenizers

    model = tokenizers.models.WordLevel({"a": 0}, unk_token="a")
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError, match=r"tokenizer_config\.json: "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("protocol", fsspec.available_protocols())
def test_every_protocol_of_fsspec_is_served_or_refused(protocol: str) -> None:
    url = f"{protocol}://a/b"
    if protocol in ("file", "local", "http", "https", "s3", "s3a", "memory"):
        check_url(url, STORAGE)
    else:
        with pytest.raises(DataError, match=f"unknown protocol '{protocol}'; expected a local"):
            check_url(url, STORAGE)


def test_damaged_bz2_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.bz2"
    data = bytearray(bz2.compress(b'{"text": "a"}\n' * 50))
    data[20] ^= 1
    file.write_bytes(data)
    assert documents(file, "skip") == ([], ["damaged file"])
    with pytest.raises(DataError, match=r"a\.jsonl\.bz2: cannot be decompressed"):
        documents(file)


def test_parquet_with_a_broken_footer_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a"]}), file)
    data = bytearray(file.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start : start + 20] = b"\xff" * 20
    file.write_bytes(data)
    assert documents(file, "skip") == ([], ["damaged file"])


def test_parquet_whose_footer_contradicts_itself_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a", "b"]}), file)
    # a column that may be null in the pages' figures, and may not in the schema
    old, new = b"\x15\x0c%\x02\x18\x04text", b"\x15\x0c$\x02\x18\x04text"
    assert file.read_bytes().count(old) == 1
    file.write_bytes(file.read_bytes().replace(old, new))
    assert documents(file, "skip") == ([], ["damaged file"])


def test_a_source_whose_name_is_no_utf8_is_built(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / name).write_text("some text")
    build(BuildConfig(sources=(str(tmp_path / name),), output=str(tmp_path / "out")))
    with tarfile.open(next((tmp_path / "out").rglob("*.tar"))) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        assert member is not None
        assert json.load(member)["source"] == "\\udcff.txt"


def test_a_language_that_is_no_text_does_not_stop_a_build(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a b", "language": "\\ud800"}\n')
    texts, reasons = documents(tmp_path / "a.jsonl", "skip")
    assert (texts, reasons) == ([], ["invalid UTF-8"])


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_shard_that_is_cut_while_it_is_open_is_named(policy: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(f"line {n}\n" for n in range(3000)))
    build(
        BuildConfig(
            sources=(str(tmp_path / "text"),),
            output=str(tmp_path / "data"),
            read=ReadConfig(document="line"),
            valid_fraction=0,
        )
    )
    folder = str(tmp_path / "data" / "train")
    config = DataConfig.model_validate({"on_corrupt_shard": policy})
    reader = ShardReader(folder, load_manifest(folder), config)
    assert len(reader.tokens(0, 0)) > 2
    shard = next(Path(folder).glob("*.tar"))
    os.truncate(shard, 2048)
    message = f"{shard}: 0 bytes at .*: it was cut short while it was being read"
    if policy == "fail":
        with pytest.raises(CorruptShardError, match=message):
            reader.tokens(0, 2999)
    else:
        reason = reader.tokens(0, 2999)
        assert isinstance(reason, str)
        assert "it was cut short while it was being read" in reason


def _broken_model(folder: Path) -> Path:
    model = tiny_model()
    with torch.no_grad():
        model.final_norm.weight[0] = torch.nan
    folder.mkdir()
    write_checkpoint(folder, model)
    return folder


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = _broken_model(tmp_path / "checkpoint")
    message = "checkpoint: final_norm.weight has numbers that are not finite"
    with pytest.raises(CheckpointError, match=message):
        verify(VerifyCheckpointCommand(checkpoint=folder))
    with pytest.raises(CheckpointError, match=message):
        generate(GenerateCommand(checkpoint=folder))


def test_a_line_that_is_no_utf8_does_not_end_a_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path, tiny_model())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\nb\n"), "utf-8"))
    with pytest.raises(RunError, match="1 lines of the input were not UTF-8"):
        chat(ChatCommand(checkpoint=tmp_path, max_tokens=2))
    printed = capsys.readouterr()
    assert printed.err.count("input, line 2: ") == 1
    assert printed.out.count("\n") >= 2
