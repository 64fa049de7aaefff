"""Readers keep every character of a text, and name the byte that is none."""

from pathlib import Path

import pytest

from data_pipeline.build.readers import read_documents
from data_pipeline.config import ReadConfig
from data_pipeline.errors import DataError

BOM = "\ufeff"
TEXT = f"one\r\ntwo\u2028{BOM}\x85\x0b\x0cthree\rfour\n\n{BOM}five\x00\u2581 \n  \nlast \u2029"


def _texts(path: Path, document: str, **options: object) -> list[str]:
    read = ReadConfig.model_validate({"document": document, **options})
    return [found.text for found in read_documents(path, read)]


@pytest.mark.parametrize("mark", ["", BOM])
def test_texts_stay_as_they_are(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((mark + TEXT).encode())
    assert _texts(path, "file") == [TEXT]
    lines = [line.decode() for line in TEXT.encode().split(b"\n")]
    assert _texts(path, "line") == [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    first, rest = TEXT.split("\n\n")
    middle, last = rest.split("\n  \n")
    assert _texts(path, "paragraph") == [f"{first}\n", f"{middle}\n", last]


def test_a_long_file_keeps_marks_where_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = f"{BOM}{'x' * 1023}\n" * 3
    path.write_text(text, encoding="utf-8", newline="")
    texts = _texts(path, "file", max_document_bytes=1100)
    assert len(texts) == 3
    assert BOM + "".join(texts) == text


def test_marks_of_joined_json_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{BOM}{{"text": "{BOM}a"}}\r\n{BOM}{{"text": "b\u2028\\r\\n"}}\n')
    assert _texts(path, "file") == [f"{BOM}a", "b\u2028\r\n"]


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_the_byte_that_is_not_utf8(tmp_path: Path, document: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((BOM + "é\n\nx\ny").encode() + b"\xe9z")
    with pytest.raises(DataError) as caught:
        _texts(path, document)
    assert f"{path}: byte 0xE9 at offset 10 is not UTF-8; expected UTF-8" in str(caught.value)
    assert "on_bad_input" not in str(caught.value)
