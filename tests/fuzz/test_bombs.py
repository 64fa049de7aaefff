"""Small files that expand to much, and archives of what is no file: each is one message."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from PIL import Image
from pyarrow import parquet

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.media import decode_image, iterate_media
from data_pipeline.shards.npy import load_npy
from tests.fuzz.child import Child
from tests.fuzz.documents import documents

MIB = 2**20


SIZE = 256 * MIB


def _read_lines(folder: Path) -> None:
    (file,) = folder.iterdir()
    assert documents(file, "skip", max_document_bytes=MIB) == ([], ["too long"])


def _zst(folder: Path) -> None:
    data = zstandard.ZstdCompressor().compress(bytes(SIZE))
    (folder / "a.jsonl.zst").write_bytes(data)


def _gz(folder: Path) -> None:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(bytes(SIZE), 1))


def _parquet(folder: Path) -> None:
    table = pa.table({"text": pa.array(["a" * SIZE], pa.large_string())})
    parquet.write_table(table, folder / "a.parquet", compression="zstd", use_dictionary=False)


@pytest.mark.parametrize("write", [_zst, _gz, _parquet])
def test_a_small_file_does_not_fill_the_memory(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    child = Child(_read_lines, memory_bytes=SIZE // 2)
    try:
        assert child.problem(tmp_path) == ""
    finally:
        child.close()


def test_lines_longer_than_a_document(tmp_path: Path) -> None:
    long, limit = "é" * 1000, 1024
    (tmp_path / "a.txt").write_text(f"a\n{long}\nb\n\nc\n")
    texts, _ = documents(tmp_path / "a.txt", document="line", max_document_bytes=limit)
    assert "".join(texts) == f"a\n{long}\nb\n\nc\n"
    assert max(len(text.encode()) for text in texts) <= limit
    texts, _ = documents(tmp_path / "a.txt", document="paragraph", max_document_bytes=limit)
    assert "".join(texts) == f"a\n{long}\nb\nc\n"
    assert max(len(text.encode()) for text in texts) <= limit
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("a", long, "b")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = documents(tmp_path / "a.jsonl", "skip", max_document_bytes=limit)
    assert found == (["a", "b"], ["too long"])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: .*read\.max_document_bytes"):
        documents(tmp_path / "a.jsonl", max_document_bytes=limit)


def _tar(path: Path, *members: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


def test_an_archive_of_a_folder_is_read(tmp_path: Path) -> None:
    folder = _member(".", tarfile.DIRTYPE)
    path = _tar(tmp_path / "a.tar", folder, _member("./a.txt", size=1), data=b"x")
    assert [sample["txt"] for sample in iterate_media([str(path)])] == ["x"]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_member("a.txt", tarfile.SYMTYPE), "is a symbolic link; expected regular files"),
        (_member("a.txt", tarfile.LNKTYPE), "is a hard link; expected regular files"),
        (_member("a.txt", tarfile.CHRTYPE), "is a device; expected regular files"),
        (_member("a.txt", tarfile.FIFOTYPE), "is a named pipe; expected regular files"),
        (_member(os.fsdecode(b"\xff.txt")), "expected a name in UTF-8"),
        (_member("a" * 2 * MIB), "headers of more than 1,048,576 bytes"),
    ],
)
def test_members_that_are_no_files_are_named(
    member: tarfile.TarInfo, message: str, tmp_path: Path
) -> None:
    path = _tar(tmp_path / "a.tar", member)
    with pytest.raises(DataError, match=message) as error:
        list(iterate_media([str(path)]))
    assert str(path) in str(error.value)


def test_a_member_that_expands_is_refused(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a", _member("a.bin", size=2 * MIB), data=bytes(2 * MIB))
    (tmp_path / "a.tar.zst").write_bytes(zstandard.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.bin' has 2,097,152 bytes.*storage\.max_member_bytes"):
        list(iterate_media([str(tmp_path / "a.tar.zst")], storage=_limited()))


def _limited() -> StorageConfig:
    return StorageConfig(max_member_bytes=MIB)


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


@pytest.mark.parametrize(
    "data",
    [
        _png(60_000, 60_000),
        _png(3_000, 3_000),
        _png(1, 1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(8 * MIB)))),
    ],
    ids=["bomb", "large", "text"],
)
def test_images_that_expand_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^there: "):
        decode_image(data, "there", MIB)


def test_a_plain_image_is_within_the_limit() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "there", 192).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': ()}",
        "(" * 5000,
    ],
)
def test_headers_of_arrays_are_not_believed(header: str) -> None:
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8)
    with pytest.raises(ValueError, match=r"header|bytes of data|Python objects"):
        load_npy(data)
