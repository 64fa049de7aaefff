"""Listing of files: one file, the files of a folder, or those of a glob.

What exists under a name is that file, even if the name has characters of a glob. Nothing is left
out without a word: folders that cannot be read are errors, and hidden files, special files, links
that lead nowhere and folders that were read already are counted and named in a warning.
"""

import fnmatch
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.files import check_url, filesystem, is_pipe, protocol_of, with_retries

logger = logging.getLogger(__name__)

_MAGIC = frozenset("*?[")
# names shown of what is left out
_EXAMPLES = 5


class Listed(NamedTuple):
    """File of a listing.

    Attributes:
        url: Path or URL.
        size: Stored bytes; None if unknown.
        version: Text that changes when the file changes.
    """

    url: str
    size: int | None
    version: str


def list_files(pattern: str, config: StorageConfig) -> list[Listed]:
    """A file, the files of a folder (recursively) or those of a glob, sorted by URL.

    A glob also matches folders, whose files are listed too. Links are followed, each folder once.
    Hidden files are ignored, unless the pattern names the dot. HTTP has no folders: the URL is the
    file.

    Raises:
        DataError: There are no such files, or a folder cannot be read.
    """
    if is_pipe(pattern):
        check_url(pattern, config)
        return [Listed(pattern, None, "")]
    system = filesystem(pattern, config)

    def listing() -> "_Listing":
        files = _Listing()
        if protocol_of(pattern) in ("http", "https"):
            files.add_info(pattern, system.info(pattern))
        elif protocol_of(pattern) in ("file", "local"):
            _list_local(files, pattern, Path(system._strip_protocol(pattern)))
        else:
            _list_remote(files, pattern, system)
        return files

    files = with_retries(pattern, config, listing)
    if files.left_out:
        logger.warning("%s: %s", pattern, files.describe_left_out())
    if not files.files:
        raise DataError(f"{pattern}: no files there; expected a file, a folder or a glob")
    return [files.files[url] for url in sorted(files.files)]


class _Listing:
    """Files by URL, and the names of what is left out by the reason."""

    def __init__(self) -> None:
        self.files: dict[str, Listed] = {}
        self.left_out: dict[str, list[str]] = {}
        self._visited: set[tuple[int, int]] = set()

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def describe_left_out(self) -> str:
        parts = []
        for reason, names in self.left_out.items():
            more = ", ..." if len(names) > _EXAMPLES else ""
            parts.append(f"{len(names)} {reason} ({', '.join(names[:_EXAMPLES])}{more})")
        return f"left out: {'; '.join(parts)}"

    def add_info(self, url: str, info: dict[str, Any]) -> None:
        """Add a file of a remote store."""
        keys = ("ETag", "mtime", "LastModified")
        version = next((str(info[key]) for key in keys if info.get(key)), "")
        self.files[url] = Listed(url, info.get("size"), version)

    def add_tree(self, top: Path) -> None:
        """Add a local file, or all files below a folder; linked folders come last.

        Raises:
            OSError: A folder cannot be read.
        """
        pending, links = [top], list[Path]()
        while pending or links:
            path = pending.pop() if pending else links.pop(0)
            try:
                status = path.stat()
            except OSError:
                if not path.is_symlink():
                    raise
                self.leave_out("links that lead nowhere", str(path))
                continue
            if stat.S_ISREG(status.st_mode):
                self.files[str(path)] = Listed(str(path), status.st_size, str(status.st_mtime))
            elif not stat.S_ISDIR(status.st_mode):
                self.leave_out("special files", str(path))
            elif (status.st_dev, status.st_ino) in self._visited:
                self.leave_out("folders that are read already", str(path))
            else:
                self._visited.add((status.st_dev, status.st_ino))
                for entry in sorted(path.iterdir(), reverse=True):
                    if entry.name.startswith("."):
                        self.leave_out("hidden files and folders", str(entry))
                    else:
                        (links if entry.is_symlink() else pending).append(entry)


def _list_local(files: _Listing, pattern: str, path: Path) -> None:
    if os.path.lexists(path):
        # a link that leads nowhere is an error here
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise DataError(f"{pattern}: a special file; expected a file, a folder or a glob")
        files.add_tree(path)
    elif _MAGIC.isdisjoint(str(path)):
        raise FileNotFoundError(path)
    else:
        for match in _matches(path):
            files.add_tree(match)


def _matches(pattern: Path) -> list[Path]:
    """Local files and folders that match a glob, sorted; folders that cannot be read are errors."""
    paths = [Path(pattern.anchor)]
    for part in pattern.parts[1:]:
        folders = [path for path in paths if path.is_dir()]
        if part == "**":
            paths = [inside for folder in folders for inside in _folders(folder)]
        elif _MAGIC.isdisjoint(part):
            paths = [folder / part for folder in folders if os.path.lexists(folder / part)]
        else:
            paths = [
                inside
                for folder in folders
                for inside in folder.iterdir()
                if fnmatch.fnmatchcase(inside.name, part)
                if part.startswith(".") or not inside.name.startswith(".")
            ]
    return sorted(set(paths))


def _folders(top: Path) -> Iterator[Path]:
    """A folder and all folders below it that are not hidden; links are followed, each once."""
    visited, pending = set[tuple[int, int]](), [top]
    while pending:
        folder = pending.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            yield folder
            inside = sorted(folder.iterdir(), reverse=True)
            pending += [path for path in inside if path.is_dir() and path.name[0] != "."]


def _list_remote(files: _Listing, pattern: str, system: Any) -> None:
    try:
        matches = {"": system.info(pattern)}
    except FileNotFoundError:
        if _MAGIC.isdisjoint(pattern):
            raise
        matches = system.glob(pattern, detail=True)
    for match in matches.values():
        root = match["name"].rstrip("/")
        inside = {root: match}
        if match["type"] != "file":
            inside = system.find(root, detail=True)
        for name, info in inside.items():
            url = f"{protocol_of(pattern)}://{name}"
            if any(part.startswith(".") for part in name.removeprefix(root).split("/")):
                files.leave_out("hidden files and folders", url)
            else:
                files.add_info(url, info)
