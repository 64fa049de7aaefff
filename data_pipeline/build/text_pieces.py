"""Pieces of plain text: cut at lines and characters, decoded, with their byte offsets."""

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from data_pipeline.errors import DataError

_CHUNK_BYTES = 1 << 20


def decode_utf8(data: bytes, offset: int) -> str:
    """The text of bytes at an offset of a file, unchanged but for the byte order mark of the file.

    Raises:
        DataError: They are not UTF-8.
    """
    try:
        # a byte order mark describes the encoding and is not part of the text
        return (data if offset else data.removeprefix(codecs.BOM_UTF8)).decode()
    except UnicodeDecodeError as error:
        at = offset + error.start + len(data) - len(error.object)
        raise DataError(f"byte 0x{data[at - offset]:02X} at offset {at} is not UTF-8") from error


def with_offsets(parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Consecutive parts of a stream with their byte offsets."""
    offset = 0
    for part in parts:
        yield offset, part
        offset += len(part)


def cut_at_lines(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """A stream in pieces of at most `limit` bytes, cut at line ends where there are any."""
    pending = io.BytesIO()
    is_first = True
    while True:
        chunk = stream.read(min(limit - pending.tell(), _CHUNK_BYTES))
        if not chunk:
            break
        pending.write(chunk)
        if pending.tell() >= limit:
            data = pending.getvalue()
            cut = data.rfind(b"\n") + 1 or character_start(data)
            yield data[:cut]
            pending = io.BytesIO()
            pending.write(data[cut:])
            is_first = False
    # an empty file is an empty document, which cleaning counts
    if is_first or pending.tell():
        yield pending.getvalue()


def character_start(data: bytes) -> int:
    """The last position, near the end of `data`, at which a UTF-8 character starts."""
    for position in range(len(data) - 1, max(len(data) - 4, 0), -1):
        if data[position] & 0xC0 != 0x80:
            return position
    return len(data)
