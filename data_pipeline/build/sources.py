"""Plan of reading: source files in a fixed order, divided into parts that are read separately."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from data_pipeline.build import stdlib_corpus
from data_pipeline.config import ReadConfig, StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from data_pipeline.storage.files import is_pipe, protocol_of
from data_pipeline.storage.listing import list_files
from data_pipeline.storage.streams import compression_of

Format = Literal["text", "jsonl", "parquet", "csv", "tsv"]
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


class SourceFile(NamedTuple):
    """File of the corpus.

    Attributes:
        url: Path or URL.
        name: Name in metadata and reports (relative where that is possible).
        size: Stored bytes; None if the server does not report them.
        version: Text that changes when the file changes.
        format: Layout of the documents in it.
        listed: Whether it was found in a folder or glob rather than named by the user.
    """

    url: str
    name: str
    size: int | None
    version: str
    format: Format
    listed: bool


class Slice(NamedTuple):
    """Lines of a file that start within the bytes [start, end); None is the end of the file."""

    file: SourceFile
    start: int = 0
    end: int | None = None


class Part(NamedTuple):
    """Input of one task: several small files, or a piece of a large one."""

    number: int
    slices: tuple[Slice, ...] = ()


def format_of(url: str, config: ReadConfig) -> Format:
    """The configured format, or the one that the suffix stands for."""
    if config.format != "auto":
        return config.format
    name = url.split("?")[0].lower()
    for suffix in _COMPRESSIONS:
        name = name.removesuffix(suffix)
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    return "text"


def source_files(
    sources: Sequence[str], read: ReadConfig, storage: StorageConfig
) -> list[SourceFile]:
    """All files of `sources`: in the order given, inside a folder or glob by name.

    Raises:
        DataError: A source is missing, empty or unreadable, or a file is named twice.
    """
    if not sources:
        raise DataError("sources: none given; expected at least one file, folder, glob or URL")
    files: list[SourceFile] = []
    for source in sources:
        files.extend(_files_of(source, read, storage))
    urls: set[str] = set()
    for file in files:
        if file.url in urls:
            raise DataError(f"{file.url}: named twice in the sources; expected each file once")
        urls.add(file.url)
    return files


def _files_of(source: str, read: ReadConfig, storage: StorageConfig) -> Iterator[SourceFile]:
    if source == stdlib_corpus.NAME:
        root = stdlib_corpus.stdlib_root()
        for path in stdlib_corpus.stdlib_files():
            name = f"{stdlib_corpus.NAME}/{path.relative_to(root).as_posix()}"
            stat = path.stat()
            version = str(stat.st_mtime)
            yield SourceFile(str(path), name, stat.st_size, version, "text", listed=True)
        return
    files = list_files(source, storage)
    listed = len(files) > 1 or not files[0].url.endswith(source.removeprefix("./"))
    for file in files:
        if file.size == 0 and not listed and read.on_bad_input == "fail":
            raise DataError(f"{file.url}: the file is empty; expected text")
        # names of files need not be UTF-8, metadata must
        name = _relative(file.url, source).encode(errors="backslashreplace").decode()
        kind = format_of(file.url, read)
        yield SourceFile(file.url, name, file.size, file.version, kind, listed)


def _relative(url: str, source: str) -> str:
    """The name of a file within its source: it does not change when the corpus moves."""
    folder = source.removeprefix("./").rstrip("/") + "/"
    position = url.find(folder)
    if position < 0:
        # the folder in front of the first part with the characters of a glob
        parts = source.removeprefix("./").split("/")
        fixed = itertools.takewhile(lambda part: not set(part) & set("*?["), parts[:-1])
        folder = "/".join(fixed) + "/"
        position = url.find(folder) if folder != "/" else -1
    return url[position + len(folder) :] if position >= 0 else _base(url)


def _base(url: str) -> str:
    # it is kept in the shards
    return redact(url) if is_pipe(url) else url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


def _can_be_cut(file: SourceFile, read: ReadConfig) -> bool:
    """Whether a file can be divided: uncompressed lines that can be read from any byte."""
    by_line = file.format == "jsonl" or (file.format == "text" and read.document == "line")
    seekable = not is_pipe(file.url) and protocol_of(file.url) not in ("http", "https")
    return by_line and seekable and compression_of(file.url) is None and file.size is not None


def plan_parts(files: Sequence[SourceFile], read: ReadConfig, part_bytes: int) -> list[Part]:
    """The corpus in parts of about `part_bytes`, the same for any number of processes."""
    parts: list[Part] = []
    pending: list[Slice] = []
    pending_bytes = 0

    def close() -> None:
        nonlocal pending, pending_bytes
        if pending:
            parts.append(Part(len(parts), tuple(pending)))
        pending, pending_bytes = [], 0

    for file in files:
        size = part_bytes if file.size is None else file.size
        if size > part_bytes and _can_be_cut(file, read):
            close()
            for start in range(0, size, part_bytes):
                end = min(start + part_bytes, size)
                parts.append(Part(len(parts), (Slice(file, start, end),)))
            continue
        if pending and pending_bytes + size > part_bytes:
            close()
        pending.append(Slice(file))
        pending_bytes += size
    close()
    return parts
