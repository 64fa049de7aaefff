"""Rows of CSV and TSV files as records."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_DIALECTS = {
    "csv": {"delimiter": ",", "strict": True},
    # a quotation mark is text there
    "tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


class TableError(Exception):
    """A table that cannot be read on.

    Attributes:
        line: Line of the file.
    """

    def __init__(self, text: str, line: int):
        super().__init__(text)
        self.line = line


def table_rows(
    stream: BinaryIO, kind: str, columns: Sequence[str], limit: int
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table, with the number of the line that each ends in.

    Args:
        stream: The file.
        kind: csv or tsv.
        columns: Names of the columns; those of the first line if there are none.
        limit: Largest field in characters.

    Raises:
        TableError: It is no UTF-8, a field is too long, or a row has another number of fields.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    before = csv.field_size_limit(limit)
    rows = csv.reader(text, **_DIALECTS[kind])  # type: ignore[arg-type]
    try:
        names = list(columns)
        for row in rows:
            if not names:
                names = row
                continue
            if not row:
                continue
            if len(row) != len(names):
                found = f"{len(row)} fields; expected {len(names)}: {', '.join(names)[:80]}"
                raise TableError(found, rows.line_num)
            yield rows.line_num, dict(zip(names, row, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        # text is decoded some lines ahead
        raise TableError(str(error), rows.line_num + 1) from error
    finally:
        csv.field_size_limit(before)
        # the stream is closed by whoever opened it
        text.detach()
