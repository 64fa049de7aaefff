"""First stage of a build: read and clean one part, and store its documents in a Parquet file."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from data_pipeline.build.cleaning import Counts, clean, example
from data_pipeline.build.duplicates.contamination import Hashes, is_contaminated, load_hashes
from data_pipeline.build.duplicates.signatures import document_hash, signature
from data_pipeline.build.readers import Document, Reader
from data_pipeline.build.sources import Part
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json
from data_pipeline.storage.atomic import write_atomically, write_text_atomically

# size of a row group: a stage holds one in memory, and a small shard reads few
_GROUP_BYTES = 1 << 20
_SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("more", pa.list_(pa.large_string())),
        ("hash", pa.binary(16)),
        ("text_bytes", pa.int64()),
        ("signature", pa.list_(pa.uint32())),
    ]
)


class PartRecord(NamedTuple):
    """Record of a finished part: what was read, and the counts of cleaning.

    Attributes:
        documents_read: Documents that were read.
        bytes_read: Their UTF-8 bytes.
        documents: Documents that were cleaned and stored.
        counts: Changes and drops.
    """

    documents_read: int
    bytes_read: int
    documents: int
    counts: Counts


def part_file(work: Path, number: int) -> Path:
    """The file of a part's cleaned documents."""
    return work / f"part-{number:06d}.parquet"


def ngram_file(work: Path) -> Path:
    """The file of the n-grams that no document may have."""
    return work / "ngrams.npy"


def _record_file(work: Path, number: int) -> Path:
    return work / f"part-{number:06d}.json"


def is_finished(work: Path, number: int) -> bool:
    """Whether a part has been read and cleaned."""
    return _record_file(work, number).is_file()


def load_record(work: Path, number: int) -> PartRecord:
    """The record of a finished part.

    Raises:
        DataError: It was changed.
    """
    file = _record_file(work, number)
    table = read_json(file)
    try:
        return PartRecord(**{**table, "counts": Counts(**table["counts"])})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not a record of this build ({error!r}); remove {work} to begin again"
        ) from error


def extract_part(config: BuildConfig, part: Part, work: Path) -> None:
    """Read and clean a part; its record is written last and marks it as finished.

    Raises:
        DataError: Input is bad and not to be skipped, or the disk is full.
    """
    # the worker before may have been lost right after its work
    if is_finished(work, part.number):
        return
    counts = Counts()
    tally = {"documents_read": 0, "bytes_read": 0, "documents": 0}
    hashes = load_hashes(ngram_file(work)) if config.decontaminate else None
    rows = _rows(config, part, counts, tally, hashes)
    with (
        write_atomically(part_file(work, part.number)) as file,
        parquet.ParquetWriter(file, _SCHEMA, compression="zstd", use_dictionary=False) as writer,
    ):
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=_SCHEMA))
    record = {**tally, "counts": asdict(counts)}
    write_text_atomically(_record_file(work, part.number), json.dumps(record))


def _rows(
    config: BuildConfig, part: Part, counts: Counts, tally: dict[str, int], hashes: Hashes | None
) -> Iterator[dict[str, Any]]:
    num_examples = config.cleaning.num_examples
    reader = Reader(
        config.read,
        config.storage,
        on_bad=lambda reason, where: counts.add("bad_input", reason, where, num_examples),
        kind=config.kind,
    )
    for piece in part.slices:
        for document in reader.documents(piece):
            tally["documents_read"] += 1
            tally["bytes_read"] += len(document.text.encode())
            row = _row(document, config, counts, hashes)
            if row is not None:
                tally["documents"] += 1
                yield row


def _row(
    document: Document, config: BuildConfig, counts: Counts, hashes: Hashes | None
) -> dict[str, Any] | None:
    text = clean(document.text, document.source, config.cleaning, counts)
    if text is None:
        return None
    target: tuple[str, ...] = ()
    if config.kind == "pairs":
        cleaned = clean(document.more[0], document.source, config.cleaning, counts)
        if cleaned is None:
            return None
        target = (cleaned,)
    texts = (text, *target)
    if hashes is not None and any(
        is_contaminated(each, config.decontaminate_ngram, hashes) for each in texts
    ):
        shown = example(document.source, text)
        counts.add("dropped", "contaminated", shown, config.cleaning.num_examples)
        return None
    near = config.cleaning.near_duplicates
    return {
        "text": text,
        "source": document.source,
        "language": document.language,
        "more": target or document.more,
        "hash": document_hash(text),
        "text_bytes": len("".join((text, *target)).encode()),
        "signature": signature(text, config.cleaning) if near else None,
    }


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    group_bytes = 0
    for row in rows:
        group.append(row)
        group_bytes += row["text_bytes"]
        if group_bytes >= _GROUP_BYTES or len(group) >= 10_000:
            yield group
            group, group_bytes = [], 0
    if group:
        yield group
