"""A foreign manifest is parsed before any of it becomes a path, a size or a position."""

import contextlib
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest

from data_pipeline.config import DataConfig, StatsConfig
from data_pipeline.errors import CorruptShardError, DataError
from data_pipeline.foreign import is_plain_name
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.manifest import INDEX_HEADER_BYTES, ShardEntry, load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.shards.stats import stats
from tests.unit.data_pipeline.storage.remote import FAST

NOT_HASHES = ["../../victim/poetry", "/etc/passwd", "0" * 63, "0" * 65, "A" * 64, "g" * 64,
              "0" * 64 + "\n", "", 0, None, ["0" * 64]]  # fmt: skip
NOT_NAMES = ["../victim.tar", "/etc/passwd", "a/b.tar", "a\\b.tar", ".", "..", "", "a\0.tar",
             "a\n.tar", ".hidden.tar", "-rf", "a?b", "a#b", "a*b", "%2e%2e%2fx", "a b", 1, None,
             "x" * 256]  # fmt: skip
NOT_COUNTS = [-1, True, False, "3", 3.0, 1.5, None, 2**63, [1]]
NEAR = -7
WRONG = (
    [("sha256", value) for value in NOT_HASHES]
    + [("name", value) for value in NOT_NAMES]
    + [
        (key, value)
        for key in ("samples", "tokens", "text_bytes", "unknown_tokens", "size", "index_crc32")
        for value in NOT_COUNTS
    ]
    + [("index_crc32", 2**32)]
)


def entry(**changes: Any) -> dict[str, Any]:
    """A good shard entry with changes."""
    counts = dict.fromkeys(("samples", "tokens", "text_bytes", "unknown_tokens", "size"), 1)
    return {"name": "a.tar", "sha256": "0" * 64, "index_crc32": 1, **counts, **changes}


def manifest(shard: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A good manifest of one shard with changes."""
    ids = {"bos_id": 256, "eos_id": 257, "pad_id": 258}
    tokenizer = {"kind": "byte", "fingerprint": "0" * 64, "vocab_size": 259, **ids}
    # parsed before they are compared with the shards
    totals = dict.fromkeys(("samples", "tokens", "text_bytes"), 1)
    table = {"format": 1, "dtype": "uint16", "tokenizer": tokenizer, **totals, "shards": [shard]}
    tokenizer.update(changes.pop("tokenizer", {}))
    return table | changes


def load(folder: Path, table: object) -> None:
    """Read a manifest from a file."""
    (folder / "manifest.json").write_text(json.dumps(table))
    load_manifest(str(folder))


def test_a_good_manifest_is_read(tmp_path: Path) -> None:
    load(tmp_path, manifest(entry()))


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_field_of_a_shard_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"manifest\.json: .*shards\.0\.{key}"):
        load(tmp_path, manifest(entry(**{key: value})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": {"eos_id": 259}}, r"eos_id is 259; expected less than vocab_size, 259"),
        ({"tokenizer": {"bos_id": -1}}, r"tokenizer\.bos_id"),
        ({"tokenizer": {"vocab_size": "259"}}, r"tokenizer\.vocab_size"),
        ({"tokenizer": {"vocab_size": True}}, r"tokenizer\.vocab_size"),
        ({"tokenizer": {"fingerprint": "../x"}}, r"tokenizer\.fingerprint"),
        ({"tokenizer": {"vocab_size": 2**17}}, "dtype is uint16; expected one that holds ids"),
        ({"dtype": "object"}, "dtype"),
        ({"format": True}, "format"),
        ({"samples": "1"}, "samples"),
        ({"shards": {}}, "shards"),
        ({"extra": 1}, "extra"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_the_manifest_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, manifest(entry(), **change))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1", "", "{", '{"a": "\\ud800"}', "\0"])
def test_what_is_no_table_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="not a manifest of shards"):
        load_manifest(str(tmp_path))


def test_plain_names() -> None:
    names = ["", ".", "..", "/", "a/b", "a\\b", "a\0", "a\n", "\x7f", "é" * 128, 1, None]
    assert not any(map(is_plain_name, names))
    assert all(map(is_plain_name, ["a", "...", ".hidden", "__0_0.distcp", "a b", "é", "é" * 127]))


# Offset and tokens of the first document; the sums stay as the manifest says. NEAR is just before
# the end of the shard.
@pytest.mark.parametrize(
    "row",
    [(-1, 4), (2**62, 4), (2**63 - 1, 4), (NEAR, 4), (1500, 1 << 40), (0, -3), (0, 0), (0, 1)],
)
def test_an_index_that_points_elsewhere_is_named(
    dataset: Path, tmp_path: Path, row: tuple[int, int]
) -> None:
    table = json.loads((dataset / "train" / "manifest.json").read_text())
    shard = next(shard for shard in table["shards"] if shard["samples"] > 1)
    rows = np.zeros((2, 3), dtype="<i8")
    rows[0] = shard["size"] - 2 if row[0] == NEAR else row[0], row[1], 1
    rows[1] = 0, shard["tokens"] - row[1], 1
    shard = {**shard, "samples": 2, "text_bytes": 2, "index_crc32": zlib.crc32(rows.tobytes())}
    index = bytes(INDEX_HEADER_BYTES) + rows.tobytes()
    (tmp_path / "documents.npy").write_bytes(index)
    (tmp_path / shard["name"]).write_bytes((dataset / "train" / shard["name"]).read_bytes())
    load(
        tmp_path,
        manifest(shard, **{key: shard[key] for key in ("samples", "tokens", "text_bytes")}),
    )
    reader = ShardReader(str(tmp_path), load_manifest(str(tmp_path)), DataConfig())
    with pytest.raises(DataError, match=r"points outside its|expected at least 2, BOS and EOS"):
        reader.tokens(0, 0)
    with pytest.raises(DataError, match=r"points outside its|expected at least 2, BOS and EOS"):
        stats(StatsConfig(path=str(tmp_path)))


def remote_shard(folder: Path, data: bytes) -> tuple[str, ShardEntry]:
    """A shard in memory, as a remote store has it, and its entry."""
    url = f"memory://{folder.name}/a.tar"
    with fsspec.open(url, "wb") as file:
        file.write(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return url, ShardEntry(**entry(size=len(data), sha256=sha256))


def test_the_cache_keeps_only_what_the_manifest_promises(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 1 << 20, FAST)
    url, right = remote_shard(tmp_path, b"shard" * 100)
    assert cache.fetch(url, right).read_bytes() == b"shard" * 100
    cache.discard(right)
    wrong = {
        "more than 499 bytes; expected 499": {"size": 499},
        "500 bytes; expected 501": {"size": 501},
        f"SHA-256 is {right.sha256}; expected {'0' * 64}": {"sha256": "0" * 64},
    }
    for message, change in wrong.items():
        with pytest.raises(CorruptShardError, match=re.escape(message)):
            cache.fetch(url, msgspec.structs.replace(right, **change))
        assert not list((tmp_path / "cache").glob("*.tar"))
        assert not list((tmp_path / "cache").glob(".*"))


def test_the_cache_reads_no_more_than_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless:
        """A server that sends without end, for a while."""

        left = 3

        def read(self, size: int) -> bytes:
            assert self.left, "reads more than the manifest promises"
            self.left -= 1
            return b"x" * size

    stream = contextlib.nullcontext(Endless())
    monkeypatch.setattr("data_pipeline.shards.cache.open_raw", lambda *_: stream)
    shard = ShardEntry(**entry(size=2**20 + 1))
    with pytest.raises(CorruptShardError, match="more than 1048577 bytes; expected 1048577"):
        ShardCache(tmp_path / "cache", 1, FAST).fetch("https://host/a.tar", shard)


def test_the_cache_touches_no_other_files(tmp_path: Path) -> None:
    folder, victim = tmp_path / "cache", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / "photos.tar").write_text("photos")
    url, shard = remote_shard(tmp_path, b"shard" * 100)
    (folder / f"{shard.sha256}.tar").symlink_to(victim)
    cache = ShardCache(folder, 1, FAST)
    assert cache.fetch(url, shard).read_bytes() == b"shard" * 100
    cache.discard(shard)
    (folder / f"{shard.sha256}.tar").symlink_to(tmp_path / "absent")
    assert cache.fetch(url, shard).read_bytes() == b"shard" * 100
    (folder / f"{shard.sha256}.lock").unlink()
    (folder / f"{shard.sha256}.lock").symlink_to(victim)
    with pytest.raises(DataError, match=r"\.lock: cannot write"):
        cache.fetch(url, shard)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "absent").exists()
    assert (folder / "photos.tar").read_text() == "photos"
