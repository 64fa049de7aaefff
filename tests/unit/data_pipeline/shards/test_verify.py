"""`verify` finds any damage; `stats` counts what is there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.config import StatsConfig, StorageConfig, VerifyConfig
from data_pipeline.errors import DataError, WriteError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.stats import stats
from data_pipeline.shards.verify import check_sizes, inspect, verify


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(dataset, tmp_path / "copied"))


def change_manifest(folder: Path, **changes: int) -> None:
    """Change the second shard's entry, and the sums with it."""
    path = folder / "manifest.json"
    table = json.loads(path.read_text())
    for key, value in changes.items():
        table[key] = table.get(key, 0) + value - table["shards"][1][key]
        table["shards"][1][key] = value
    path.write_text(json.dumps(table))


def flip_bit(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_an_undamaged_dataset(dataset: Path) -> None:
    report = verify(VerifyConfig(path=str(dataset)))
    assert report.ok
    splits = [load_manifest(str(dataset / split)) for split in ("train", "valid")]
    assert report.samples == sum(manifest.samples for manifest in splits) == 60
    assert "all agree with the manifest" in str(report)
    assert verify(VerifyConfig(path=str(dataset / "train"))).samples == splits[0].samples


# Where a bit may flip: a tar header, metadata, tokens, padding behind them, the end of the file.
@pytest.mark.parametrize("position", [0, 110, 520, 1700, 2000, -1])
def test_a_flipped_bit(copied: Path, position: int) -> None:
    shard = copied / "train" / "shard-000001.tar"
    flip_bit(shard, position)
    report = inspect(VerifyConfig(path=str(copied)))
    assert not report.ok
    assert all(str(shard) in problem for problem in report.problems)
    assert "SHA-256 is" in str(report)
    with pytest.raises(DataError, match="problems in") as caught:
        verify(VerifyConfig(path=str(copied)))
    assert str(caught.value) == str(report)


def cut(folder: Path) -> None:
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-5000])


def remove(folder: Path) -> None:
    (folder / "shard-000001.tar").unlink()


def empty(folder: Path) -> None:
    (folder / "shard-000001.tar").write_bytes(b"")


def swap(folder: Path) -> None:
    shutil.copy(folder / "shard-000000.tar", folder / "shard-000001.tar")


def add(folder: Path) -> None:
    shutil.copy(folder / "shard-000000.tar", folder / "shard-000099.tar")


def damage_index(folder: Path) -> None:
    flip_bit(folder / "documents.npy", -9)


def cut_index(folder: Path) -> None:
    index = folder / "documents.npy"
    index.write_bytes(index.read_bytes()[:-8])


def recount(folder: Path) -> None:
    samples = load_manifest(str(folder)).shards[1].samples
    change_manifest(folder, samples=samples + 1)


def recount_tokens(folder: Path) -> None:
    change_manifest(folder, tokens=5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "bytes; expected"),
        (remove, "no such file"),
        (empty, "0 bytes; expected"),
        (swap, "bytes; expected"),
        (add, "shard-000099.tar: not in the manifest"),
        (damage_index, "its rows in documents.npy have CRC-32"),
        (cut_index, "documents.npy:"),
        (recount, "have CRC-32"),
        (recount_tokens, "(documents, tokens, bytes of text) are"),
    ],
)
def test_other_damage(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copied / "train")
    report = inspect(VerifyConfig(path=str(copied)))
    assert not report.ok
    assert message in str(report)


def test_a_broken_manifest_is_an_error(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json"):
        verify(VerifyConfig(path=str(tmp_path)))
    path = copied / "train" / "manifest.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "samples": table["samples"] + 1}))
    with pytest.raises(DataError, match=r"manifest\.json: samples is \d+; expected \d+"):
        verify(VerifyConfig(path=str(copied)))
    path.write_text(json.dumps({**table, "shards": [{"name": "x"}]}))
    with pytest.raises(DataError, match=r"shards\.0: object missing required field `samples`"):
        verify(VerifyConfig(path=str(copied)))
    path.write_text("{")
    with pytest.raises(DataError, match="not a manifest of shards"):
        verify(VerifyConfig(path=str(copied)))


def test_splits_of_two_tokenizers(copied: Path) -> None:
    path = copied / "valid" / "manifest.json"
    table = json.loads(path.read_text())
    table["tokenizer"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(table))
    report = inspect(VerifyConfig(path=str(copied)))
    assert report.problems == (f"{copied}: its splits were made with different tokenizers",)


def test_sizes_are_compared_without_reading(copied: Path) -> None:
    folder = str(copied / "train")
    manifest = load_manifest(folder)
    check_sizes(folder, manifest, StorageConfig())
    shard = copied / "train" / "shard-000001.tar"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    found = f"shard-000001.tar: {size - 1} bytes; expected {size} by the manifest"
    with pytest.raises(DataError, match=found):
        check_sizes(folder, manifest, StorageConfig())
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar: no such file; expected"):
        check_sizes(folder, manifest, StorageConfig())


def test_stats_are_printed_when_their_plot_cannot_be_written(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for png in (tmp_path / "file" / "lengths.png", tmp_path):
        with pytest.raises(WriteError, match="cannot write"):
            stats(StatsConfig(path=str(dataset), png=str(png)))
        assert "tokens per document" in capsys.readouterr().out


def test_stats(dataset: Path, tmp_path: Path) -> None:
    png = tmp_path / "plots" / "lengths.png"
    report = stats(StatsConfig(path=str(dataset), png=str(png)))
    train, valid = report.splits
    assert train.documents + valid.documents == 60
    for split in report.splits:
        assert sum(split.histogram) == split.documents
        lowest = sum(2**number * count for number, count in enumerate(split.histogram))
        assert lowest <= split.tokens < 2 * lowest
        assert split.text_bytes == split.tokens - 2 * split.documents
    assert f"{train.tokens:,} tokens" in str(report)
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10
