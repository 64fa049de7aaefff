"""Files on disks, HTTP servers and object stores, through fsspec, with retries."""

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import split_protocol

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError, MissingFileError, UnavailableError
from data_pipeline.input_files import open_regular
from data_pipeline.redaction import is_redacted, redact

logger = logging.getLogger(__name__)
T = TypeVar("T")

# fsspec has more, which need other packages and arguments
_PROTOCOLS = {"file", "local", "http", "https", "s3", "s3a", "memory"}
_CREDENTIALS = (
    "expected AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), or "
    "storage.anonymous = true for a public bucket"
)


def is_remote(url: str) -> bool:
    """Whether `url` points somewhere other than the local disk."""
    return is_pipe(url) or protocol_of(url) not in ("file", "local")


def is_pipe(url: str) -> bool:
    """Whether `url` is a command to run, in webdataset's notation."""
    return url.startswith("pipe:")


def protocol_of(url: str) -> str:
    """The part before '://'; 'file' if there is none."""
    return split_protocol(url)[0] or "file"


def join(folder: str, name: str) -> str:
    """Path or URL of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def check_url(url: str, config: StorageConfig) -> None:
    """Reject URLs that run commands, unless they are allowed, and those without credentials.

    Raises:
        DataError: The URL is a `pipe:` without `storage.allow_pipe`, its protocol is unknown, or it
            comes from a file that was written without the URL's credentials.
    """
    for part in (url, config.endpoint_url):
        if is_redacted(part):
            raise DataError(
                f"{part}: was written without its credentials, which no run directory or "
                "checkpoint keeps; expected the whole URL: from your own run file instead of a "
                "kept one, or by the option of its key"
            )
    if is_pipe(url):
        if not config.allow_pipe:
            raise DataError(
                f"{url}: a pipe: URL runs a command and is refused; expected a path or a URL. "
                "Set storage.allow_pipe = true if the command is trusted."
            )
    elif protocol_of(url) not in _PROTOCOLS:
        raise DataError(
            f"{url}: unknown protocol {protocol_of(url)!r}; expected a local path, http://, "
            "https:// or s3://"
        )


@functools.lru_cache(maxsize=64)
def _filesystem(protocol: str, config: StorageConfig, process: int) -> Any:
    """A file system for this process: connections do not survive a fork."""
    del process
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=config.timeout_s, sock_read=config.timeout_s
        )
        options = {"client_kwargs": {"timeout": timeout}}
    elif protocol in ("s3", "s3a"):
        options = {
            "anon": config.anonymous,
            "endpoint_url": config.endpoint_url or None,
            # attempts are counted here, not also inside botocore
            "config_kwargs": {
                "connect_timeout": config.timeout_s,
                "read_timeout": config.timeout_s,
                "retries": {"max_attempts": 0},
            },
        }
    elif protocol == "file":
        # object stores have no folders to create first
        options = {"auto_mkdir": True}
    system = fsspec.filesystem(
        protocol, skip_instance_cache=True, use_listings_cache=False, **options
    )
    if protocol in ("s3", "s3a"):
        system.retries = 1
    return system


def filesystem(url: str, config: StorageConfig) -> Any:
    """This process's fsspec file system for `url`."""
    check_url(url, config)
    return _filesystem(protocol_of(url), config, os.getpid())


def local_path(url: str) -> Path:
    """Path of a local `url`, with or without file://."""
    return Path(split_protocol(url)[1])


def _cause(url: str, error: Exception) -> Exception:
    """The failure behind an error: fsspec says FileNotFoundError for every one at HTTP's info()."""
    cause = error.__cause__
    over_http = protocol_of(url) in ("http", "https")
    if over_http and isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return cause
    return error


def _is_missing(error: Exception) -> bool:
    """Whether the store said that there is no such file, which a retry does not change."""
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410)


def _is_transient(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, OSError | asyncio.TimeoutError):
        return True
    # connection errors of aiohttp and botocore, without importing either for local files
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ClientConnectionError", "ClientPayloadError", "HTTPClientError"})


def explain(url: str, error: Exception) -> DataError:
    """The error that describes in one line a failure at `url`."""
    error = _cause(url, error)
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return DataError(f"{url}: no S3 credentials found; {_CREDENTIALS}")
    if _is_missing(error):
        return MissingFileError(f"{url}: no such file; expected a readable file")
    if isinstance(error, PermissionError):
        hint = f"; {_CREDENTIALS}" if protocol_of(url) in ("s3", "s3a") else ""
        return DataError(f"{url}: permission denied ({error}){hint}")
    kind = UnavailableError if is_remote(url) and _is_transient(error) else DataError
    return kind(f"{url}: cannot be read ({name}: {error})")


def with_retries(url: str, config: StorageConfig, request: Callable[[], T]) -> T:
    """Run `request`, and retry after transient failures of a remote store, with longer waits.

    Raises:
        UnavailableError: The store did not answer in the last attempt.
        DataError: The failure is not transient.
    """
    attempts = config.attempts if is_remote(url) else 1
    for attempt in range(1, attempts + 1):
        try:
            return request()
        except DataError:
            raise
        except Exception as error:
            if attempt == attempts or not _is_transient(_cause(url, error)):
                explained = explain(url, error)
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise type(explained)(f"{explained}{tried}") from error
            delay_s = config.first_delay_s * 2 ** (attempt - 1)
            shown = redact(f"{url}: {error}")
            logger.warning("%s; attempt %d in %.1f s", shown, attempt + 1, delay_s)
            time.sleep(delay_s)
    raise AssertionError("config.attempts is at least 1")


def read_bytes(
    url: str, config: StorageConfig, start: int | None = None, end: int | None = None
) -> bytes:
    """Read a whole file, or the bytes [start, end) of it.

    Raises:
        DataError: The file cannot be read, or is shorter than `end`.
    """
    if is_remote(url):
        system = filesystem(url, config)
        data = bytes(with_retries(url, config, lambda: system.cat_file(url, start=start, end=end)))
    else:
        with naming(url), open_regular(local_path(url)) as file:
            file.seek(start or 0)
            data = file.read() if end is None else file.read(end - (start or 0))
    if start is not None and end is not None and len(data) > end - start:
        # an HTTP server without range requests sends the whole file
        data = data[start:end]
    if start is not None and end is not None and len(data) != end - start:
        raise DataError(f"{url}: {len(data)} bytes at {start}; expected {end - start}")
    return data


def exists(url: str, config: StorageConfig) -> bool:
    """Whether there is a file or folder at `url`.

    Raises:
        DataError: The store does not say: fsspec's own exists() would take that for a no.
    """
    system = filesystem(url, config)
    try:
        with_retries(url, config, lambda: system.info(url))
    except MissingFileError:
        return False
    return True


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Turn any failure inside the block into a `DataError` that names `url`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise explain(url, error) from error
