"""Atomic writing replaces regular files only; links stay, devices and FIFOs are written into."""

import os
import stat
import threading
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.storage.atomic import write_atomically, write_text_atomically


def names(folder: Path) -> list[str]:
    """Names in a folder."""
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(TypeError), write_atomically(path) as file:
        file.writelines([b"half", None])
    assert path.read_text() == "old"
    write_text_atomically(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, exists: bool) -> None:
    target, first, second = (tmp_path / name for name in ("there/target", "first", "second"))
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    second.symlink_to("there/target")
    first.symlink_to(second)
    write_text_atomically(first, "new")
    assert first.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "new"
    assert names(target.parent) == ["target"]


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".file.{os.getpid()}.partial").symlink_to(victim)
    write_text_atomically(tmp_path / "file", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(path.read_text()), daemon=True)
    reader.start()
    write_text_atomically(path, "text")
    reader.join(timeout=10)
    assert received == ["text"]
    assert path.is_fifo()
    assert names(tmp_path) == ["fifo"]


def test_a_device_is_written_into_and_a_full_one_named() -> None:
    write_text_atomically(Path("/dev/null"), "text")
    with pytest.raises(DataError, match="/dev/full: the disk is full"):
        write_text_atomically(Path("/dev/full"), "text")
    assert Path("/dev/null").is_char_device()
    assert Path("/dev/full").is_char_device()
    assert not list(Path("/dev").glob(".*.partial"))


def test_a_folder_and_a_circle_of_links_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(DataError, match=f"{path}: cannot write"):
            write_text_atomically(path, "text")
    assert (tmp_path / "a").is_symlink()
