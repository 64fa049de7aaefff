"""Bounded folder of downloaded shards, shared by processes."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.errors import CorruptShardError
from data_pipeline.shards.manifest import ShardEntry
from data_pipeline.storage.atomic import disk_errors, write_atomically
from data_pipeline.storage.streams import open_raw

_CHUNK_BYTES = 1 << 20
# other files of the folder are not the cache's
_OWN = re.compile(r"[0-9a-f]{64}\.tar")


def default_folder() -> Path:
    """The folder for this user's cached shards."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resonance" / "shards"


class ShardCache:
    """Folder of downloaded shards, from which the least recently used are removed.

    Files are named by their checksum, which a download must have, so datasets and runs share them
    without trusting one another. Processes that have a removed file open can still read it. The
    newest shard is always kept, so the folder may exceed its limit by one shard. Links in the
    folder are replaced, never followed, and files with other names stay untouched.
    """

    def __init__(self, folder: Path, limit_bytes: int, storage: StorageConfig):
        self._folder, self._limit_bytes, self._storage = folder, limit_bytes, storage

    def fetch(self, url: str, entry: ShardEntry) -> Path:
        """The local copy of a shard; concurrent processes download it only once.

        Raises:
            CorruptShardError: The downloaded bytes differ from the manifest; they are not kept.
            DataError: The shard cannot be downloaded or stored.
        """
        path = self._folder / f"{entry.sha256}.tar"
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / f"{entry.sha256}.lock"):
            if path.is_symlink():
                path.unlink()
            if not path.is_file():
                self._download(url, entry, path)
        # the time of last use decides which files go first; another process may have removed it
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, follow_symlinks=False)
        self._evict(keep=path)
        return path

    def _download(self, url: str, entry: ShardEntry, path: Path) -> None:
        """Copy a shard, at most the bytes that its manifest promises, and compare its SHA-256."""
        sha256, size = hashlib.sha256(), 0
        with open_raw(url, self._storage) as source, write_atomically(path) as target:
            while chunk := source.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > entry.size:
                    break
                sha256.update(chunk)
                target.write(chunk)
            if size != entry.size:
                found = f"more than {entry.size}" if size > entry.size else f"{size}"
                raise CorruptShardError(
                    f"{url}: {found} bytes; expected {entry.size} by the manifest"
                )
            if sha256.hexdigest() != entry.sha256:
                raise CorruptShardError(
                    f"{url}: SHA-256 is {sha256.hexdigest()}; expected {entry.sha256} by the "
                    "manifest"
                )

    def discard(self, entry: ShardEntry) -> None:
        """Remove a damaged copy."""
        (self._folder / f"{entry.sha256}.tar").unlink(missing_ok=True)

    def _evict(self, keep: Path) -> None:
        with _locked(self._folder / "evict.lock"):
            files = []
            for path in filter(_is_own, self._folder.glob("*.tar")):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.lstat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._limit_bytes:
                    return
                if path != keep:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".lock").unlink(missing_ok=True)
                    total -= size


def _is_own(path: Path) -> bool:
    return bool(_OWN.fullmatch(path.name))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # the folder may be shared: a link that somebody else put there is not followed
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
