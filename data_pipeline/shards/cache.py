"""Bounded folder of downloaded shards, shared by processes."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.shards.manifest import ShardEntry
from data_pipeline.storage.atomic import write_atomically
from data_pipeline.storage.streams import open_raw

_CHUNK_BYTES = 1 << 20


def default_folder() -> Path:
    """The folder for this user's cached shards."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resonance" / "shards"


class ShardCache:
    """Folder of downloaded shards, from which the least recently used are removed.

    Files are named by their checksum, so datasets and runs share them. Processes that have a
    removed file open can still read it. The newest shard is always kept, so the folder may exceed
    its limit by one shard.
    """

    def __init__(self, folder: Path, limit_bytes: int, storage: StorageConfig):
        self._folder, self._limit_bytes, self._storage = folder, limit_bytes, storage

    def fetch(self, url: str, entry: ShardEntry) -> Path:
        """The local copy of a shard; concurrent processes download it only once.

        Raises:
            DataError: The shard cannot be downloaded or stored.
        """
        path = self._folder / f"{entry.sha256}.tar"
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / f"{entry.sha256}.lock"):
            if not path.is_file():
                with open_raw(url, self._storage) as source, write_atomically(path) as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
        # the time of last use decides which files go first; another process may have removed it
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        self._evict(keep=path)
        return path

    def discard(self, entry: ShardEntry) -> None:
        """Remove a damaged copy."""
        (self._folder / f"{entry.sha256}.tar").unlink(missing_ok=True)

    def _evict(self, keep: Path) -> None:
        with _locked(self._folder / "evict.lock"):
            files = []
            for path in self._folder.glob("*.tar"):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._limit_bytes:
                    return
                if path != keep:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".lock").unlink(missing_ok=True)
                    total -= size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
