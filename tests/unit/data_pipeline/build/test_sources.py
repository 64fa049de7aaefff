"""Documents come out of every format, compressed or not, in a fixed order, each once."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from data_pipeline.build.readers import Document, Reader
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.build.text_pieces import cut_at_lines
from data_pipeline.config import ReadConfig, StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.listing import list_files

STORAGE = StorageConfig(attempts=1)
TEXTS = ["first document\nof two lines\n", "zweites, mit Umlaut: ä", "third\r\n\r\nend"]


def read_all(
    sources: Sequence[str | Path], read: ReadConfig | None = None, part_bytes: int = 1 << 30
) -> list[Document]:
    """Read whole sources; bad input is fatal."""
    read = read or ReadConfig()
    reader = Reader(read, STORAGE, on_bad=pytest.fail)
    files = source_files([str(source) for source in sources], read, STORAGE)
    parts = plan_parts(files, read, part_bytes)
    return [
        document for part in parts for piece in part.slices for document in reader.documents(piece)
    ]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    # Two frames in a row are one file.
    ".zst": lambda data: (
        zstandard.ZstdCompressor().compress(data[:7])
        + zstandard.ZstdCompressor().compress(data[7:])
    ),
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_jsonl_and_text_in_every_compression(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps({"text": text, "language": "en", "other": 1}) for text in TEXTS]
    jsonl = tmp_path / f"a.jsonl{suffix}"
    jsonl.write_bytes(COMPRESSIONS[suffix]("\n".join(lines).encode()))
    text = tmp_path / f"b.txt{suffix}"
    text.write_bytes(COMPRESSIONS[suffix](TEXTS[2].encode()))
    documents = read_all([tmp_path])
    assert [document.text for document in documents] == [*TEXTS, TEXTS[2]]
    assert [document.source for document in documents] == [jsonl.name] * 3 + [text.name]
    assert [document.language for document in documents] == ["en"] * 3 + [""]


def test_parquet_by_column_names(tmp_path: Path) -> None:
    table = pa.table({"body": TEXTS, "lang": ["en", "de", None], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    read = ReadConfig(text_key="body", language_key="lang", language="xx")
    documents = read_all([tmp_path / "a.parquet"], read)
    assert [document.text for document in documents] == TEXTS
    assert [document.language for document in documents] == ["en", "de", "xx"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "first"}\n')
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfsecond")
    assert [document.text for document in read_all([tmp_path])] == ["first", "second"]


def test_documents_of_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n\n\n  \nthree\n")
    as_lines = read_all([file], ReadConfig(document="line"))
    assert [document.text for document in as_lines if document.text.strip()] == [
        "one\n",
        "two\n",
        "three\n",
    ]
    as_paragraphs = read_all([file], ReadConfig(document="paragraph"))
    assert [document.text for document in as_paragraphs] == ["one\ntwo\n", "three\n"]
    as_file = read_all([file])
    assert [document.text for document in as_file] == [file.read_text()]


@given(
    st.lists(st.text(alphabet="aé\u2028 ", max_size=20), min_size=1, max_size=30),
    st.integers(1, 80),
)
def test_parts_of_a_large_file_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], part_bytes: int
) -> None:
    file = tmp_path_factory.mktemp("lines") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file.write_text("\n".join(lines), encoding="utf-8")
    documents = read_all([file], part_bytes=part_bytes)
    assert [document.text for document in documents] == texts


@given(st.text(alphabet="aé\n", max_size=300), st.integers(8, 60))
def test_large_texts_are_cut_without_losing_a_character(text: str, limit: int) -> None:
    pieces = list(cut_at_lines(io.BytesIO(text.encode()), limit))
    assert b"".join(pieces) == text.encode()
    for piece in pieces:
        piece.decode()
        assert len(piece) <= limit


def test_small_files_share_a_part_and_order_is_by_name(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt", "c.txt", ".hidden.txt", "b/.cache/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    files = source_files([str(tmp_path)], ReadConfig(), STORAGE)
    assert [file.name for file in files] == ["a/1.txt", "b/2.txt", "c.txt"]
    parts = plan_parts(files, ReadConfig(), part_bytes=14)
    assert [[piece.file.name for piece in part.slices] for part in parts] == [
        ["a/1.txt", "b/2.txt"],
        ["c.txt"],
    ]


def test_globs_and_several_sources_keep_the_order_given(tmp_path: Path) -> None:
    for name in ("1.txt", "2.txt", "3.md"):
        (tmp_path / name).write_text(name)
    documents = read_all([tmp_path / "3.md", tmp_path / "*.txt"])
    assert [document.text for document in documents] == ["3.md", "1.txt", "2.txt"]


def test_the_embedded_corpus_is_the_standard_library() -> None:
    files = source_files(["stdlib"], ReadConfig(), STORAGE)
    names = [file.name for file in files]
    assert names == sorted(names)
    assert "stdlib/json/decoder.py" in names
    assert not [name for name in names if "/test/" in name or "site-packages" in name]
    assert 5e6 < sum(file.size or 0 for file in files) < 30e6


def test_missing_and_repeated_sources(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "missing.txt", r"missing\.txt: no such file"),
        (tmp_path / "*.gone", "no files there"),
        (tmp_path / "empty", "no files there"),
        ("ftpx://host/a.txt", "unknown protocol 'ftpx'"),
    ):
        with pytest.raises(DataError, match=message):
            source_files([str(source)], ReadConfig(), STORAGE)
    with pytest.raises(DataError, match="named twice"):
        source_files([str(file), str(tmp_path)], ReadConfig(), STORAGE)
    with pytest.raises(DataError, match="sources: none given"):
        source_files([], ReadConfig(), STORAGE)


def test_commands_as_sources_are_refused_unless_allowed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    url = f"pipe:touch {marker} && echo text"
    with pytest.raises(DataError, match="runs a command and is refused"):
        list_files(url, STORAGE)
    assert not marker.exists()
    allowed = StorageConfig(allow_pipe=True)
    files = source_files([url], ReadConfig(), allowed)
    reader = Reader(ReadConfig(), allowed, on_bad=pytest.fail)
    (part,) = plan_parts(files, ReadConfig(), 1 << 20)
    assert [document.text for document in reader.documents(part.slices[0])] == ["text\n"]
    failing = source_files(["pipe:echo text; exit 3"], ReadConfig(), allowed)
    (part,) = plan_parts(failing, ReadConfig(), 1 << 20)
    with pytest.raises(DataError, match="ended with status 3"):
        list(reader.documents(part.slices[0]))
