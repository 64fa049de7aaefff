"""Reading documents from source files, one at a time; bad input is counted or raised."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from data_pipeline.build.records import Fields, Kind, MissingFieldError
from data_pipeline.build.sources import Slice, SourceFile, format_of
from data_pipeline.build.tables import TableError, table_rows
from data_pipeline.build.text_pieces import (
    character_start,
    cut_at_lines,
    decode_utf8,
    with_offsets,
)
from data_pipeline.config import ReadConfig, StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from data_pipeline.storage.files import explain
from data_pipeline.storage.streams import open_raw, open_stream

# exceptions of decoders for input that is damaged or cut short
_DAMAGED = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
# rows of Parquet in memory at a time: dictionaries make many large values of one
_BATCH_ROWS = 8


class Document(NamedTuple):
    """Text of a document, the name of its source file and its language.

    Attributes:
        more: Its labels, or the target of the pair whose source is the text.
    """

    text: str
    source: str
    language: str
    more: tuple[str, ...] = ()


# called with the reason and the place of bad input that is skipped
OnBad = Callable[[str, str], None]


class Reader:
    """Reader of slices of source files.

    Args:
        read: Layout of documents inside the files.
        storage: Access to the files.
        on_bad: Called for bad input that is skipped; None if none may be.
    """

    def __init__(
        self, read: ReadConfig, storage: StorageConfig, on_bad: OnBad | None, kind: Kind = "texts"
    ):
        self._read, self._storage, self._on_bad = read, storage, on_bad
        self._fields = Fields(read, kind)

    def bad(self, reason: str, where: str, found: str, expected: str) -> None:
        """Report bad input: stop, or skip and count it.

        Raises:
            DataError: Bad input is configured to be fatal.
        """
        if self._on_bad is None:
            raise DataError(f"{where}: {found}; expected {expected}")
        if self._read.on_bad_input == "fail":
            raise DataError(
                f'{where}: {found}; expected {expected}. Set read.on_bad_input = "skip" to skip '
                "and count such input."
            )
        self._on_bad(reason, redact(f"{where}: {found}"))

    def documents(self, piece: Slice) -> Iterator[Document]:
        """The documents of a slice, in order.

        Raises:
            DataError: The file cannot be read, or holds bad input that must not be skipped.
        """
        formats = {
            "text": self._text,
            "jsonl": self._jsonl,
            "parquet": self._parquet,
            "csv": self._table,
            "tsv": self._table,
        }
        try:
            yield from formats[piece.file.format](piece)
        except _DAMAGED as error:
            expected = "a whole, undamaged file"
            self.bad("damaged file", piece.file.url, f"cannot be decompressed ({error})", expected)
        except OSError as error:
            if error.errno is not None:
                raise explain(piece.file.url, error) from error
            # bz2 has no exception of its own
            expected = "a whole, undamaged file"
            self.bad("damaged file", piece.file.url, f"cannot be decompressed ({error})", expected)

    def _too_long(self, found: str, where: str) -> None:
        limit = self._read.max_document_bytes
        expected = f"at most {limit:,} (read.max_document_bytes)"
        self.bad("too long", where, f"{found} of more than {limit:,} bytes", expected)

    def _decode(self, data: bytes, where: str, offset: int) -> str | None:
        try:
            return decode_utf8(data, offset)
        except DataError as error:
            self.bad("invalid UTF-8", where, str(error), "UTF-8 text")
            return None

    def _text(self, piece: Slice) -> Iterator[Document]:
        name, language = piece.file.name, self._read.language
        for offset, data in self._text_pieces(piece):
            text = self._decode(data, piece.file.url, offset)
            if text is not None:
                yield Document(text, name, language)

    def _text_pieces(self, piece: Slice) -> Iterator[tuple[int, bytes]]:
        """The documents of a plain text, with their byte offsets."""
        limit = self._read.max_document_bytes
        if self._read.document == "file":
            with open_stream(piece.file.url, self._storage) as stream:
                yield from with_offsets(cut_at_lines(stream, limit))
            return
        paragraph, start = bytearray(), 0
        for offset, line, _ in self._lines(piece):
            if self._read.document == "line":
                yield offset, line
                continue
            if paragraph and (not line.strip() or len(paragraph) + len(line) > limit):
                yield start, bytes(paragraph)
                paragraph.clear()
            if line.strip():
                start = start if paragraph else offset
                paragraph += line
        if paragraph:
            yield start, bytes(paragraph)

    def _lines(self, piece: Slice) -> Iterator[tuple[int, bytes, bool]]:
        """The lines that start inside the slice: (byte offset, bytes, whether the line ends there).

        A line that is longer than a document may be comes in several pieces.
        """
        limit, offset = self._read.max_document_bytes, piece.start
        is_whole_file = piece.start == 0 and piece.end is None
        opened = open_stream if is_whole_file else open_raw
        with opened(piece.file.url, self._storage) as stream:
            if piece.start > 0:
                # one byte earlier, so that a line that starts exactly here is not skipped
                offset = stream.seek(piece.start - 1)
                while (line := stream.readline(limit)) and not line.endswith(b"\n"):
                    offset += len(line)
                offset += len(line)
            while piece.end is None or stream.tell() < piece.end:
                pending, is_end = b"", False
                while not is_end:
                    line = pending + stream.readline(limit - len(pending))
                    is_end = len(line) < limit or line.endswith(b"\n")
                    cut = len(line) if is_end else character_start(line)
                    pending = line[cut:]
                    if line:
                        yield offset, line[:cut], is_end
                        offset += cut
                if not line:
                    return

    def _jsonl(self, piece: Slice) -> Iterator[Document]:
        number, is_start = 0, True
        for offset, line, is_end in self._lines(piece):
            number, is_whole, is_continued = number + is_start, is_start and is_end, not is_start
            is_start = is_end
            if is_continued or not line.strip():
                continue
            base = f", from byte {piece.start}" if piece.start else ""
            where = f"{piece.file.url}, line {number}{base}"
            if not is_whole:
                self._too_long("a line", where)
                continue
            text = self._decode(line, where, offset)
            if text is None:
                continue
            try:
                # files that were joined have a byte order mark each, which is no part of a record
                record = json.loads(text.removeprefix("\ufeff"))
            except (ValueError, RecursionError) as error:
                self.bad("broken JSON", where, f"broken JSON ({error})", "one object per line")
                continue
            document = self._from_record(record, where, piece)
            if document is not None:
                yield document

    def _from_record(self, record: Any, where: str, piece: Slice) -> Document | None:
        try:
            text, more = self._fields.of(record)
        except MissingFieldError as error:
            self.bad("no text", where, error.found, error.expected)
            return None
        language = record.get(self._read.language_key)
        named = language if isinstance(language, str) else self._read.language
        try:
            "".join((text, named, *more)).encode()
        except UnicodeEncodeError as error:
            # JSON can spell half of a surrogate pair
            self.bad("invalid UTF-8", where, f"{error.reason} at {error.start}", "valid Unicode")
            return None
        return Document(text, piece.file.name, named, more)

    def _table(self, piece: Slice) -> Iterator[Document]:
        limit = self._read.max_document_bytes
        with open_stream(piece.file.url, self._storage) as stream:
            rows = table_rows(stream, piece.file.format, self._read.columns, limit)
            try:
                for line, record in rows:
                    where = f"{piece.file.url}, line {line}"
                    document = self._from_record(record, where, piece)
                    if document is not None:
                        yield document
            except TableError as error:
                where = f"{piece.file.url}, line {error.line}"
                self.bad("damaged file", where, str(error), "a table")

    def _parquet(self, piece: Slice) -> Iterator[Document]:
        with open_raw(piece.file.url, self._storage) as stream:
            yield from self._parquet_rows(stream, piece)

    def _parquet_rows(self, stream: BinaryIO, piece: Slice) -> Iterator[Document]:
        import pyarrow
        from pyarrow import parquet

        url, keys = piece.file.url, self._fields.keys
        try:
            file = parquet.ParquetFile(stream)
        # not even its documented exceptions cover broken footers
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            self.bad("damaged file", url, f"not a Parquet file ({error})", "a Parquet file")
            return
        names, limit = file.schema_arrow.names, self._read.max_document_bytes
        if missing := [key for key in keys if key not in names]:
            found = f"no column {missing[0]!r}; the columns are {names}"
            self.bad("no text", url, found, f"a column {missing[0]!r}")
            return
        columns = [name for name in (*keys, self._read.language_key) if name in names]
        row = 0
        try:
            groups = list(self._small_groups(file.metadata, url))
            for batch in file.iter_batches(
                batch_size=_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False
            ):
                for record in batch.to_pylist():
                    where = f"{url}, row {row}"
                    row += 1
                    texts = (record[key] for key in keys)
                    if any(isinstance(t, str) and len(t) > limit for t in texts):
                        self._too_long("a value", where)
                        continue
                    document = self._from_record(record, where, piece)
                    if document is not None:
                        yield document
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            self.bad("damaged file", f"{url}, row {row}", f"unreadable ({error})", "Parquet rows")

    def _small_groups(self, metadata: Any, url: str) -> Iterator[int]:
        """The row groups whose texts are small enough on average: reading decides about each."""
        limit, keys = self._read.max_document_bytes, self._fields.keys
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            most = limit * max(1, group.num_rows)
            # pyarrow ends the process at a column whose footer is damaged, which reading only
            # rejects: none is opened where all together are small
            if group.total_byte_size <= most:
                yield number
                continue
            columns = (group.column(index) for index in range(group.num_columns))
            sizes = [c.total_uncompressed_size for c in columns if c.path_in_schema in keys]
            if max(sizes, default=0) > most:
                self._too_long("a value", f"{url}, row group {number}")
            else:
                yield number


def read_documents(path: Path, read: ReadConfig) -> list[Document]:
    """All documents of a file, by the rules of `data build`; bad input is fatal.

    Raises:
        DataError: The file cannot be read, or holds bad input.
    """
    url = str(path)
    file = SourceFile(url, url, None, "", format_of(url, read), listed=False)
    return list(Reader(read, StorageConfig(), on_bad=None).documents(Slice(file)))
