"""A task on a worker of a cluster, after checks that the worker is like the client's machine."""

import functools
import hashlib
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import data_pipeline
from data_pipeline.errors import DataError

# packages whose results could differ between versions
_PACKAGES = ("datasketch", "numpy", "pyarrow", "sentencepiece", "tokenizers")


class Place(NamedTuple):
    """State that every worker must share with the client.

    Attributes:
        folder: Working folder, from which relative paths start.
        mark: File that the client has written for this build.
        text: Its text.
        versions: Versions by name.
    """

    folder: Path
    mark: Path
    text: str
    versions: dict[str, str]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of all that decides about the bytes of shards, in this process."""
    digest = hashlib.sha256()
    root = Path(data_pipeline.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return {
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "data_pipeline": digest.hexdigest()[:12],
    }


def call(place: Place, function: Callable[..., None], task: tuple[Any, ...]) -> None:
    """Run a task on a worker.

    Raises:
        DataError: The task failed, or the worker has other versions or other files; names the
            worker.
    """
    from distributed import get_worker

    address = get_worker().address
    for name, version in versions().items():
        expected = place.versions.get(name)
        if version != expected:
            raise DataError(
                f"worker {address}: {name} {version}; expected {expected} as here, or shards could "
                "differ"
            )
    try:
        os.chdir(place.folder)
        found = place.mark.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"worker {address}: {error.filename}: {error.strerror}; expected a file system that "
            "this machine and all workers share"
        ) from error
    if found != place.text:
        raise DataError(
            f"worker {address}: {place.mark} is of another build; expected a file system that this "
            "machine and all workers share"
        )
    try:
        function(*task)
    except DataError as error:
        raise type(error)(f"worker {address}: {error}") from error
    except MemoryError as error:
        raise DataError(
            f"worker {address}: out of memory; expected enough for one task (cluster.memory)"
        ) from error
