"""Sequential reading of a source file: local, remote or a command's output, decompressed."""

import bz2
import contextlib
import gzip
import io
import lzma
import subprocess
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import zstandard
from fsspec.utils import infer_compression

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.input_files import open_regular
from data_pipeline.storage.files import (
    check_url,
    filesystem,
    is_pipe,
    is_remote,
    local_path,
    naming,
    with_retries,
)

_BUFFER_BYTES = 1 << 20
# expanded at a time: at most 32 MiB come out of it
_ZSTD_BYTES = 1 << 10


class _RetryingReader(io.RawIOBase):
    """Remote file whose failed reads are retried from the same position."""

    def __init__(self, url: str, file: Any, config: StorageConfig):
        super().__init__()
        self._url, self._file, self._config = url, file, config
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = int(self._file.seek(offset, whence))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        def read() -> bytes:
            if self.seekable():
                self._file.seek(self._position)
            return bytes(self._file.read(len(buffer)))

        data = with_retries(self._url, self._config, read)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _ZstdReader(io.RawIOBase):
    """Zstandard frames; a truncated frame is an error (zstandard's own reader just ends)."""

    def __init__(self, source: BinaryIO):
        super().__init__()
        self._source = source
        self._frame: Any = None
        self._compressed = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            self._compressed = self._compressed or self._source.read(_ZSTD_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the zstd stream ends inside a frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._text = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._text))
        buffer[:count] = self._text[:count]
        self._text = self._text[count:]
        return count


@contextlib.contextmanager
def _pipe(url: str) -> Iterator[BinaryIO]:
    command = url.removeprefix("pipe:")
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        yield cast(BinaryIO, process.stdout)
        process.stdout.close()
        status = process.wait()
    if status != 0:
        raise DataError(f"{url}: the command ended with status {status}; expected 0")


@contextlib.contextmanager
def open_raw(url: str, config: StorageConfig) -> Iterator[BinaryIO]:
    """Open the stored bytes of `url`, seekable where the store allows it."""
    check_url(url, config)
    if is_pipe(url):
        with _pipe(url) as stream:
            yield stream
    elif is_remote(url):
        system = filesystem(url, config)
        remote = with_retries(url, config, lambda: system.open(url, "rb"))
        reader = _RetryingReader(url, remote, config)
        with io.BufferedReader(reader, _BUFFER_BYTES) as buffered:
            yield cast(BinaryIO, buffered)
    else:
        with naming(url):
            file = open_regular(local_path(url))
        with file:
            yield file


def compression_of(url: str) -> str | None:
    """The compression that the suffix stands for: 'gzip', 'bz2', 'xz', 'zstd' or None."""
    if is_pipe(url):
        return None
    compression = infer_compression(url.split("?")[0])
    return compression if compression in ("gzip", "bz2", "xz", "zstd") else None


@contextlib.contextmanager
def open_stream(url: str, config: StorageConfig) -> Iterator[BinaryIO]:
    """Open `url` for reading from the start, decompressed by its suffix.

    Raises:
        DataError: The file cannot be opened. Reading a truncated file raises the decoder's error.
    """
    with open_raw(url, config) as raw:
        match compression_of(url):
            case "gzip":
                stream: Any = gzip.GzipFile(fileobj=raw)
            case "bz2":
                stream = bz2.BZ2File(raw)
            case "xz":
                stream = lzma.LZMAFile(raw)  # noqa: SIM115 (closed below)
            case "zstd":
                stream = io.BufferedReader(_ZstdReader(raw), _BUFFER_BYTES)
            case _:
                yield raw
                return
        with stream:
            yield cast(BinaryIO, stream)
