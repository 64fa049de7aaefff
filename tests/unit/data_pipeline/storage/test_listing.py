"""Listings are complete, or say what they leave out."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.listing import list_files
from tests.object_store import object_store

STORAGE = StorageConfig(attempts=1)


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def names(pattern: Path | str, root: Path) -> list[str]:
    files = list_files(str(pattern), STORAGE)
    assert all(file.size == Path(file.url).stat().st_size for file in files)
    return [str(Path(file.url).relative_to(root)) for file in files]


@pytest.mark.parametrize("pattern", ["", "*", "**", "**/*.txt", "sub/**"])
def test_a_folder_that_cannot_be_read_is_an_error(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.txt", "sub/b.txt", "sub/deep/c.txt")
    iterdir, scandir = Path.iterdir, os.scandir

    def refuse(path: Path) -> Iterator[Path]:
        # root may read everything, whatever the mode says
        if path.name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(Path(path)) and scandir(path))
    with pytest.raises(DataError, match=r"permission denied .*sub/deep"):
        list_files(str(tmp_path / pattern), STORAGE)


def test_folders_that_a_glob_matches_are_read(tmp_path: Path) -> None:
    make(tmp_path, "gl/a.txt", "gl/one/b.txt", "gl/one/deep/c.txt", "gl/two.d/d.txt", "e.txt")
    everything = ["gl/a.txt", "gl/one/b.txt", "gl/one/deep/c.txt", "gl/two.d/d.txt"]
    assert names(tmp_path / "gl/*", tmp_path) == everything
    assert names(tmp_path / "g?", tmp_path) == everything
    assert names(tmp_path / "gl/**", tmp_path) == everything
    assert names(tmp_path / "**/one/*", tmp_path) == everything[1:3]
    assert names(tmp_path / "gl/**/*.txt", tmp_path) == ["gl/a.txt", *everything[1:]]
    assert names(tmp_path / "[a-f].*", tmp_path) == ["e.txt"]
    assert names(tmp_path / "gl/tw[!x].d", tmp_path) == ["gl/two.d/d.txt"]


def test_links_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "in/z/a.txt", "elsewhere/b.txt", "file.txt")
    root = tmp_path / "in"
    (root / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (root / "same").symlink_to(root / "z")
    (root / "z" / "up").symlink_to(root)
    (root / "linked.txt").symlink_to(tmp_path / "file.txt")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "itself").symlink_to(root / "itself")
    os.mkfifo(root / "pipe")
    with caplog.at_level(logging.WARNING):
        found = names(root, root)
    # what is there itself comes before what a link leads to
    assert found == ["elsewhere/b.txt", "linked.txt", "z/a.txt"]
    for reason, left_out in {
        "1 special files": ["pipe"],
        "2 folders that are read already": ["same", "z/up"],
        "2 links that lead nowhere": ["gone", "itself"],
    }.items():
        assert reason in caplog.text
        for name in left_out:
            assert str(root / name) in caplog.text


def test_hidden_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a.txt", ".git/config", *(f".{number}" for number in range(7)))
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path, tmp_path) == ["a.txt"]
    assert "left out: 8 hidden files and folders (" in caplog.text
    assert ", ...)" in caplog.text
    assert names(tmp_path / ".git", tmp_path) == [".git/config"]
    assert names(tmp_path / ".[0-2]", tmp_path) == [".0", ".1", ".2"]
    caplog.clear()
    assert names(tmp_path / "*", tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["notes[1].txt", "what?.txt", "a*b.txt", "[x].txt", "a[b", "**"])
def test_what_exists_is_taken_by_its_name(name: str, tmp_path: Path) -> None:
    make(tmp_path, name, "notes1.txt", "whatx.txt", "axb.txt", "x.txt", "ab")
    assert names(tmp_path / name, tmp_path) == [name]
    make(tmp_path, f"d-{name}/inside.txt", "d-notes1.txt/other", "d-ab/other", "d-x.txt/other")
    assert names(tmp_path / f"d-{name}", tmp_path) == [f"d-{name}/inside.txt"]
    assert [file.url for file in list_files(f"file://{tmp_path}/{name}", STORAGE)] == [
        str(tmp_path / name)
    ]


def test_a_special_file_that_is_named_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="pipe: a special file; expected a file, a folder or a"):
        list_files(str(tmp_path / "pipe"), STORAGE)
    with pytest.raises(DataError, match="gone: no such file"):
        list_files(str(tmp_path / "gone"), STORAGE)


def test_names_and_globs_of_a_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with object_store("runs", monkeypatch) as endpoint:
        storage = StorageConfig(endpoint_url=endpoint, attempts=1, timeout_s=5)
        client = boto3.client("s3", endpoint_url=endpoint)
        keys = ["c/notes[1].txt", "c/notes1.txt", "c/sub/a.txt", "c/.hidden"]
        for key in keys:
            client.put_object(Bucket="runs", Key=key, Body=b"text")

        def found(pattern: str) -> list[str]:
            return [file.url for file in list_files(f"s3://runs/{pattern}", storage)]

        assert found("c/notes[1].txt") == ["s3://runs/c/notes[1].txt"]
        assert found("c/notes[12].txt") == ["s3://runs/c/notes1.txt"]
        assert found("c/*") == [
            *("s3://runs/c/.hidden", "s3://runs/c/notes1.txt"),
            *("s3://runs/c/notes[1].txt", "s3://runs/c/sub/a.txt"),
        ]
        with caplog.at_level(logging.WARNING):
            assert len(found("c")) == 3
        assert "left out: 1 hidden files and folders (s3://runs/c/.hidden)" in caplog.text
