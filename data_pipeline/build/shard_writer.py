"""Third stage of a build: tokenize documents and write them as one WebDataset shard."""

import functools
import hashlib
import io
import itertools
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from pyarrow import parquet

from data_pipeline.build.extract import part_file
from data_pipeline.build.planning import ShardTask, load_choice, rows_of_piece
from data_pipeline.build.records import Kind
from data_pipeline.errors import DataError
from data_pipeline.shards.make_manifest import LabelTable
from data_pipeline.shards.manifest import INDEX_COLUMNS, ShardEntry, pack_rows
from data_pipeline.storage.atomic import write_atomically
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

_BLOCK = 512
_COLUMNS = ["text", "source", "language", "text_bytes", "more"]


class TarWriter:
    """Writer of a tar file whose bytes depend on its members alone, hashed while it is written."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._file.write(data)
        self.size += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append a member.

        Returns:
            The byte offset of its data.
        """
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def close(self) -> str:
        """Write the end of the archive.

        Returns:
            The SHA-256 of the whole file.
        """
        self._write(bytes(2 * _BLOCK))
        return self._sha256.hexdigest()


def _record_file(work: Path, task: ShardTask) -> Path:
    """The file that marks a shard as finished: its manifest entry, and its rows of the index."""
    return work / f"{task.split}-{task.number:06d}.shard"


def load_finished(work: Path, folder: Path, task: ShardTask) -> tuple[ShardEntry, bytes] | None:
    """The entry and the index rows of a finished shard; None if it is not finished."""
    record, shard = _record_file(work, task), folder / task.name
    if not (record.is_file() and shard.is_file()):
        return None
    line, rows = record.read_bytes().split(b"\n", 1)
    entry = msgspec.json.decode(line, type=ShardEntry)
    return (entry, rows) if entry.size == shard.stat().st_size else None


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, fingerprint: str) -> Tokenizer:
    """The tokenizer, loaded once per worker process."""
    del fingerprint
    return load_tokenizer(path)


class DocumentLayout(NamedTuple):
    """Parts of a document of a shard.

    Attributes:
        kind: Texts, labelled texts or pairs.
        labels: Labels of labelled texts.
    """

    kind: Kind
    labels: LabelTable | None = None

    def tail(self, more: list[str], text_ids: list[int], tokenizer: Tokenizer) -> list[int]:
        """Tokens after a text: the numbers of its labels, or the target of a pair.

        Raises:
            DataError: A text has more labels than tokens.
        """
        if self.kind == "pairs":
            return [tokenizer.bos_id, *tokenizer.encode(more[0]), tokenizer.eos_id]
        if self.labels is None:
            return []
        # labels of a batch are at the places of its tokens
        if len(more) > len(text_ids) + 1:
            raise DataError(
                f"a text of {len(text_ids)} tokens has {len(more)} labels; expected fewer labels "
                "than tokens"
            )
        number = {name: index for index, name in enumerate(self.labels.names)}
        unused = self.labels.slots - len(more)
        return [number[label] for label in more] + [len(number)] * unused


def write_shard(
    tokenizer_path: str, fingerprint: str, layout: DocumentLayout, task: ShardTask, work: Path
) -> None:
    """Tokenize and write one shard, then the record that marks it as finished.

    Raises:
        DataError: The disk is full.
    """
    # the worker before may have been lost right after its work
    if load_finished(work, work.parent / task.split, task) is not None:
        return
    tokenizer = _tokenizer(tokenizer_path, fingerprint)
    with write_atomically(work.parent / task.split / task.name) as file:
        tar = TarWriter(file)
        documents = _write_documents(tar, tokenizer, layout, task, work)
        written = np.array(list(documents), dtype=np.int64)
        sha256 = tar.close()
    index = written[:, :INDEX_COLUMNS]
    rows = pack_rows(index)
    entry = ShardEntry(
        name=task.name,
        samples=len(index),
        tokens=int(index[:, 1].sum()),
        text_bytes=int(index[:, 2].sum()),
        unknown_tokens=int(written[:, INDEX_COLUMNS].sum()),
        lossy_documents=int(written[:, INDEX_COLUMNS + 1].sum()),
        size=tar.size,
        sha256=sha256,
        index_crc32=zlib.crc32(rows),
    )
    with write_atomically(_record_file(work, task)) as file:
        file.write(msgspec.json.encode(entry) + b"\n" + rows)


def _write_documents(
    tar: TarWriter, tokenizer: Tokenizer, layout: DocumentLayout, task: ShardTask, work: Path
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Write the documents of a shard.

    Yields:
        For each, its row of the index, its number of unknown tokens, and whether its text is lost.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    for number, row in enumerate(_rows(task, work), task.first):
        text_ids = tokenizer.encode(row["text"])
        is_lossy = tokenizer.decode(text_ids) != row["text"]
        tail = layout.tail(row["more"], text_ids, tokenizer)
        ids = [tokenizer.bos_id, *text_ids, tokenizer.eos_id, *tail]
        data = _npy(np.array(ids, dtype=dtype))
        metadata = {key: row[key] for key in ("source", "language", "text_bytes")}
        if layout.kind == "labelled":
            metadata["labels"] = row["more"]
        key = f"{number:012d}"
        tar.add(f"{key}.json", json.dumps(metadata, ensure_ascii=False).encode())
        header = len(data) - len(ids) * dtype.itemsize
        offset = tar.add(f"{key}.tokens.npy", data) + header
        texts = ids if layout.kind == "pairs" else ids[: len(ids) - len(tail)]
        unknown = 0 if tokenizer.unk_id is None else texts.count(tokenizer.unk_id)
        yield offset, len(ids), row["text_bytes"], unknown, is_lossy


def _npy(tokens: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tokens)
    return buffer.getvalue()


def _rows(task: ShardTask, work: Path) -> Iterator[dict[str, Any]]:
    """The documents of a shard; one row group of a part is in memory at a time."""
    for span, pieces in itertools.groupby(task.pieces, lambda piece: piece.span):
        choice = load_choice(work, span)
        for piece in pieces:
            rows_of_part = rows_of_piece(task.split, choice, piece)
            with parquet.ParquetFile(part_file(work, piece.part)) as file:
                start = 0
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    rows = rows_of_part[(rows_of_part >= start) & (rows_of_part < end)] - start
                    if len(rows):
                        table = file.read_row_group(group, columns=_COLUMNS, use_threads=False)
                        yield from table.take(rows).to_pylist()
                    start = end
