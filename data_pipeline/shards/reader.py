"""Random access to the documents of a folder of shards, local or remote."""

import hashlib
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.errors import CorruptShardError, MissingFileError, UnavailableError
from data_pipeline.input_files import open_regular
from data_pipeline.shards.cache import ShardCache, default_folder
from data_pipeline.shards.manifest import Index, Manifest, ShardEntry, first_rows, read_rows
from data_pipeline.storage.files import is_remote, join, local_path, naming

_MAX_OPEN = 512


def _max_open(num_datasets: int) -> int:
    """Shards that a dataset keeps open: together half of the files that a process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MAX_OPEN
    return min(_MAX_OPEN, max(1, files // 2 // max(1, num_datasets)))


class _OpenShard:
    """A file that is closed when nothing refers to it any more."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes at `offset`; fewer if the file ends there."""
        # not from a memory map: a file that is cut short under one ends the process
        return os.pread(self._descriptor, size, offset)


class ShardReader:
    """Reader of documents' tokens by (shard, row).

    State: open shards and their index rows; the least recently used are closed.
    """

    def __init__(self, path: str, manifest: Manifest, config: DataConfig):
        self._path, self._manifest, self._config = path, manifest, config
        self._is_remote = is_remote(path)
        self._first_row = first_rows(manifest)
        self._rows: OrderedDict[int, Index] = OrderedDict()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._verified: set[int] = set()
        self._corrupt: dict[int, str] = {}
        # by shard: the time until which its store is not asked again, and why
        self._unavailable: dict[int, tuple[float, str]] = {}
        folder = Path(config.cache) if config.cache else default_folder()
        self._cache = ShardCache(folder, config.cache_bytes, config.storage)
        self._dtype = np.dtype(manifest.dtype)
        self._max_open = _max_open(len(config.datasets))

    def url(self, shard: int) -> str:
        """Path or URL of a shard."""
        return join(self._path, self._manifest.shards[shard].name)

    def document(self, shard: int, row: int) -> int:
        """Number of a document within the dataset."""
        return int(self._first_row[shard]) + row

    def index(self, shard: int) -> Index:
        """The index rows of a shard.

        Raises:
            DataError: `documents.npy` is missing, too short or changed.
        """
        if shard in self._rows:
            self._rows.move_to_end(shard)
            return self._rows[shard]
        first = int(self._first_row[shard])
        rows = read_rows(self._path, self._manifest, shard, first, self._config.storage)
        self._rows[shard] = rows
        if len(self._rows) > 1024:
            self._rows.popitem(last=False)
        return rows

    def prefetch(self, shards: Iterable[int]) -> None:
        """Download the remote shards among `shards` that are about to be read, in parallel.

        Raises:
            DataError: The store does not answer, or the disk is full.
        """
        if not self._is_remote:
            return
        unopened = [
            shard for shard in shards if shard not in self._open and not self._masked(shard)
        ]
        if not unopened:
            return
        with ThreadPoolExecutor(self._config.storage.num_readers) as readers:
            downloads = {shard: readers.submit(self._fetch, shard) for shard in unopened}
        for shard, download in downloads.items():
            try:
                download.result()
            except (CorruptShardError, MissingFileError):
                # reading a missing or damaged shard reports it
                continue
            except UnavailableError as error:
                self._mask_for_a_while(shard, error)

    def _fetch(self, shard: int) -> Path:
        return self._cache.fetch(self.url(shard), self._manifest.shards[shard])

    def tokens(
        self, shard: int, row: int, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.unsignedinteger] | str:
        """Tokens [start, stop) of a document, or the reason why its shard is skipped.

        Raises:
            DataError: The shard is missing, cut short or changed, and `on_corrupt_shard` is fail.
        """
        try:
            if shard not in self._open:
                if reason := self._masked(shard):
                    return reason
                self._open[shard] = self._opened(shard)
                if len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            return self._read(shard, row, start, stop)
        except UnavailableError as error:
            return self._mask_for_a_while(shard, error)
        except (CorruptShardError, MissingFileError) as error:
            if self._config.on_corrupt_shard == "fail":
                raise
            self._corrupt[shard] = str(error)
            return self._corrupt[shard]

    def _masked(self, shard: int) -> str:
        """Why a shard is masked now; empty if it is to be read."""
        until_s, reason = self._unavailable.get(shard, (0.0, ""))
        return self._corrupt.get(shard, "") or (reason if time.monotonic() < until_s else "")

    def _mask_for_a_while(self, shard: int, error: UnavailableError) -> str:
        """Mask a shard for as long as the next wait between attempts would be.

        Returns:
            The reason.

        Raises:
            UnavailableError: `on_corrupt_shard` is fail.
        """
        if self._config.on_corrupt_shard == "fail":
            raise error
        storage = self._config.storage
        wait_s = storage.first_delay_s * 2 ** (storage.attempts - 1)
        self._unavailable[shard] = time.monotonic() + wait_s, str(error)
        return str(error)

    def _read(
        self, shard: int, row: int, start: int, stop: int | None
    ) -> npt.NDArray[np.unsignedinteger]:
        offset, count, _ = map(int, self.index(shard)[row])
        stop = count if stop is None else min(stop, count)
        size = (stop - start) * self._dtype.itemsize
        offset += start * self._dtype.itemsize
        with naming(self.url(shard)):
            data = self._open[shard].read(size, offset)
        if len(data) != size:
            raise CorruptShardError(
                f"{self.url(shard)}: {len(data)} bytes at {offset}; expected {size}: it was cut "
                "short while it was being read"
            )
        return np.frombuffer(data, self._dtype)

    def _opened(self, shard: int) -> "_OpenShard":
        entry, url = self._manifest.shards[shard], self.url(shard)
        if not self._is_remote:
            return self._checked(shard, entry, local_path(url))
        try:
            return self._checked(shard, entry, self._fetch(shard))
        except (CorruptShardError, MissingFileError):
            # only the copy may be damaged: download it once more
            self._cache.discard(entry)
            return self._checked(shard, entry, self._fetch(shard))

    def _checked(self, shard: int, entry: ShardEntry, path: Path) -> "_OpenShard":
        url = self.url(shard)
        with naming(url):
            file = open_regular(path)
        with file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.size:
                raise CorruptShardError(
                    f"{url}: {size} bytes; expected {entry.size} by the manifest"
                )
            if self._config.verify_shards and shard not in self._verified:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if sha256 != entry.sha256:
                    raise CorruptShardError(
                        f"{url}: SHA-256 is {sha256}; expected {entry.sha256} by the manifest"
                    )
                self._verified.add(shard)
            return _OpenShard(os.dup(file.fileno()))
