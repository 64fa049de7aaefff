"""Reading of tar files as plain samples; unsafe member names are rejected."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.streams import open_stream

_DRAIN_BYTES = 1 << 20


def check_member(url: str, name: str, config: StorageConfig) -> None:
    """Reject a member that would leave the folder into which a tar file is unpacked.

    Raises:
        DataError: The name is absolute or has '..', without `storage.allow_unsafe_members`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    unsafe = path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":")
    if unsafe and not config.allow_unsafe_members:
        raise DataError(
            f"{url}: member {name!r} leads outside; expected a relative name without '..'. Set "
            "storage.allow_unsafe_members = true if the archive is trusted."
        )


def members(url: str, stream: BinaryIO, config: StorageConfig) -> Iterator[tuple[str, int, bytes]]:
    """The files of a tar stream: name, byte offset of the data, data.

    Raises:
        DataError: A name is unsafe, or the stream is not a whole tar file.
    """
    counted = _Counting(stream)
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, counted), mode="r|") as tar:
            for info in tar:
                check_member(url, info.name, config)
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                file = tar.extractfile(info)
                if file is not None:
                    yield info.name, info.offset_data, file.read()
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{url}: cut short or not a tar file ({error})") from error
    # tarfile takes a cut between two members, or inside a header, for the end
    if counted.drain() < end + tarfile.BLOCKSIZE:
        raise DataError(f"{url}: cut short; expected the end of the archive after byte {end}")


class _Counting:
    """Stream that counts the bytes read from it."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._count = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._count += len(data)
        return data

    def drain(self) -> int:
        """Read to the end.

        Returns:
            The number of all bytes.
        """
        while self.read(_DRAIN_BYTES):
            pass
        return self._count


def samples(url: str, config: StorageConfig) -> Iterator[dict[str, bytes]]:
    """The samples of a WebDataset shard: data by extension, and `__key__`.

    Consecutive files whose names agree up to the first dot (of the last part) are one sample.

    Raises:
        DataError: A name is unsafe, an extension comes twice, or the shard is damaged.
    """
    sample: dict[str, bytes] = {}
    with open_stream(url, config) as stream:
        for name, _, data in members(url, stream, config):
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = f"{folder}/{stem}".lstrip("/").encode()
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            if extension in sample:
                raise DataError(f"{url}: {name!r} comes twice; expected each member once")
            sample["__key__"] = key
            sample[extension] = data
    if sample:
        yield sample
