"""Reading of tar files as plain samples; unsafe member names are rejected."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.streams import open_stream

_DRAIN_BYTES = 1 << 20
# headers of one member: long names and extended attributes
_HEADER_BYTES = 1 << 20
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def check_member(url: str, name: str, config: StorageConfig) -> None:
    """Reject a member that would leave the folder into which a tar file is unpacked.

    Raises:
        DataError: The name is no UTF-8, or is absolute or has '..', without
            `storage.allow_unsafe_members`.
    """
    # what is no UTF-8 was read as surrogates
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DataError(f"{url}: member {name!r}: expected a name in UTF-8")
    path = PurePosixPath(name.replace("\\", "/"))
    unsafe = path.is_absolute() or ".." in path.parts or "".join(path.parts[:1]).endswith(":")
    if unsafe and not config.allow_unsafe_members:
        raise DataError(
            f"{url}: member {name!r} leads outside; expected a relative name without '..'. Set "
            "storage.allow_unsafe_members = true if the archive is trusted."
        )


def members(
    url: str, stream: BinaryIO, config: StorageConfig, limit: int | None = None
) -> Iterator[tuple[str, int, bytes]]:
    """The files of a tar stream: name, byte offset of the data, data; folders are left out.

    Args:
        url: Its name, for messages.
        stream: The archive.
        config: What its members may be named.
        limit: Largest member in bytes; None for no limit, if the stream is not decompressed.

    Raises:
        DataError: A name is unsafe, a member is too large or no file, or the stream is not a whole
            tar file.
    """
    counted = _Counting(stream, url)
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, counted), mode="r|") as tar:
            # the first header was read when the archive was opened
            while (info := tar.next()) is not None:
                check_member(url, info.name, config)
                if info.isdir():
                    counted.expect(0)
                    continue
                _check_file(url, info, limit)
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                counted.expect(end - counted.count)
                file = tar.extractfile(info)
                if file is not None:
                    yield info.name, info.offset_data, file.read()
    except DataError:
        raise
    except Exception as error:
        # tarfile has errors of its own for some damage only
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{url}: cut short or not a tar file ({problem})") from error
    # tarfile takes a cut between two members, or inside a header, for the end
    if counted.drain() < end + tarfile.BLOCKSIZE:
        raise DataError(f"{url}: cut short; expected the end of the archive after byte {end}")


def _check_file(url: str, info: tarfile.TarInfo, limit: int | None) -> None:
    kind = "a sparse file" if info.issparse() else _KINDS.get(info.type)
    if kind is not None:
        raise DataError(f"{url}: member {info.name!r} is {kind}; expected regular files")
    if limit is not None and info.size > limit:
        raise DataError(
            f"{url}: member {info.name!r} has {info.size:,} bytes; expected at most {limit:,} "
            "(storage.max_member_bytes)"
        )


class _Counting:
    """Stream that counts the bytes read from it, and ends headers that do not end.

    Attributes:
        count: Bytes read so far.
    """

    def __init__(self, stream: BinaryIO, url: str):
        self._stream, self._url = stream, url
        self.count = 0
        self.expect(0)

    def expect(self, size: int) -> None:
        """Allow so many bytes of data, and the next headers."""
        self._allowed = self.count + size + _HEADER_BYTES

    def read(self, size: int) -> bytes:
        if self.count > self._allowed:
            raise DataError(
                f"{self._url}: headers of more than {_HEADER_BYTES:,} bytes at byte "
                f"{self.count:,}; expected a member"
            )
        data = self._stream.read(size)
        self.count += len(data)
        return data

    def drain(self) -> int:
        """Read to the end.

        Returns:
            The number of all bytes.
        """
        while data := self._stream.read(_DRAIN_BYTES):
            self.count += len(data)
        return self.count


def samples(url: str, config: StorageConfig) -> Iterator[dict[str, bytes]]:
    """The samples of a WebDataset shard: data by extension, and `__key__`.

    Consecutive files whose names agree up to the first dot (of the last part) are one sample.

    Raises:
        DataError: A name is unsafe, an extension comes twice, or the shard is damaged.
    """
    sample: dict[str, bytes] = {}
    limit, size = config.max_member_bytes, 0
    with open_stream(url, config) as stream:
        for name, _, data in members(url, stream, config, limit):
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = f"{folder}/{stem}".lstrip("/").encode()
            if sample and sample["__key__"] != key:
                yield sample
                sample, size = {}, 0
            if extension in sample:
                raise DataError(f"{url}: {name!r} comes twice; expected each member once")
            size += len(data)
            if size > limit:
                raise DataError(
                    f"{url}: sample {key.decode()!r} has more than {limit:,} bytes; expected at "
                    "most so many (storage.max_member_bytes)"
                )
            sample["__key__"] = key
            sample[extension] = data
    if sample:
        yield sample
