"""`manifest.json`: contents of a folder of shards; `documents.npy`: places of its documents."""

import io
import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pydantic

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.foreign import (
    LARGEST_COUNT,
    LONGEST_NAME,
    PLAIN_NAME,
    Count,
    ForeignTable,
    PlainName,
    Sha256,
    first_problem,
)
from data_pipeline.storage.files import exists, join, read_bytes

NAME = "manifest.json"
# .npy file with the rows of all documents, shard after shard, separate from the shards: a damaged
# shard must not change the order of the other shards' documents
INDEX_NAME = "documents.npy"
# row of a document: byte offset of its tokens in the shard, tokens, UTF-8 bytes of its text
INDEX_COLUMNS = 3
INDEX_HEADER_BYTES = 128
SHORTEST_DOCUMENT = 2
# their numbers, and one more for none, fit into uint16
MAX_LABELS = 65_535

Index = npt.NDArray[np.int64]


_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entry of a shard: counts, size in bytes, checksums of the shard and of its index rows.

    Lossy documents are those that decoding their tokens does not give back. A manifest may have
    100,000 of these: msgspec checks them in a quarter of pydantic's time.
    """

    name: Annotated[str, msgspec.Meta(pattern=PLAIN_NAME, max_length=LONGEST_NAME)]
    samples: _Count
    tokens: _Count
    text_bytes: _Count
    unknown_tokens: _Count
    lossy_documents: _Count = 0
    size: _Count
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    index_crc32: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class TokenizerEntry(ForeignTable):
    """Entry of the tokenizer that made the tokens."""

    kind: PlainName
    fingerprint: Sha256
    vocab_size: Annotated[int, pydantic.Field(ge=1, le=2**32)]
    bos_id: Count
    eos_id: Count
    pad_id: Count

    @pydantic.model_validator(mode="after")
    def _ids_fit(self) -> "TokenizerEntry":
        for name in ("bos_id", "eos_id", "pad_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected less than vocab_size, "
                    f"{self.vocab_size}"
                )
        return self


class Manifest(ForeignTable):
    """Contents of a split: shards of tokenized documents, each BOS, tokens, EOS.

    Attributes:
        kind: Texts; or pairs, of which each is its source and then its target in this form; or
            labelled texts, each with the numbers of its labels after it.
        labels: Names of the labels.
        label_counts: Number of texts with each label.
        label_slots: Numbers after each text: of its labels, then len(labels) for none.
        multi_label: Whether a text may have any number of labels.
    """

    # Literal[1] would take true
    format: Annotated[int, pydantic.Field(ge=1, le=1)]
    dtype: Literal["uint16", "uint32"]
    tokenizer: TokenizerEntry
    samples: Count
    tokens: Count
    text_bytes: Count
    kind: Literal["texts", "labelled", "pairs"] = "texts"
    labels: tuple[Annotated[str, pydantic.Field(max_length=LONGEST_NAME)], ...] = pydantic.Field(
        (), max_length=MAX_LABELS
    )
    label_counts: tuple[Count, ...] = ()
    label_slots: Annotated[int, pydantic.Field(ge=0, le=MAX_LABELS)] = 0
    multi_label: bool = False
    shards: tuple[pydantic.InstanceOf[ShardEntry], ...]

    @pydantic.model_validator(mode="after")
    def _ids_fit(self) -> "Manifest":
        if self.tokenizer.vocab_size - 1 > np.iinfo(self.dtype).max:
            raise ValueError(
                f"dtype is {self.dtype}; expected one that holds ids below vocab_size, "
                f"{self.tokenizer.vocab_size}"
            )
        if len(self.label_counts) != len(self.labels):
            raise ValueError(
                f"label_counts has {len(self.label_counts)} numbers; expected one for each of the "
                f"{len(self.labels)} labels"
            )
        if (self.kind == "labelled") != bool(self.labels and self.label_slots):
            raise ValueError(
                f"kind is {self.kind} with {len(self.labels)} labels and {self.label_slots} "
                "label_slots; expected both of labelled texts, and of no others"
            )
        return self


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    """A manifest as it is stored, of which only the shards are checked."""

    format: Any
    dtype: Any
    tokenizer: Any
    samples: Any
    tokens: Any
    text_bytes: Any
    shards: tuple[ShardEntry, ...]
    kind: Any = "texts"
    labels: tuple[str, ...] = ()
    label_counts: tuple[_Count, ...] = ()
    label_slots: Any = 0
    multi_label: Any = False


def load_manifest(path: str, storage: StorageConfig | None = None) -> Manifest:
    """Read `manifest.json` of a folder or URL.

    Raises:
        DataError: The file is missing or broken, or its totals disagree with its shards.
    """
    url = join(path, NAME)
    data = read_bytes(url, storage or StorageConfig())
    try:
        stored = msgspec.json.decode(data, type=_Stored)
        manifest = Manifest.model_validate(msgspec.structs.asdict(stored))
    except pydantic.ValidationError as error:
        raise DataError(f"{url}: not a manifest of shards: {first_problem(error)}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DataError(f"{url}: not a manifest of shards: {_problem(error)}") from error
    for key in ("samples", "tokens", "text_bytes"):
        total, expected = getattr(manifest, key), sum(getattr(s, key) for s in manifest.shards)
        if total != expected:
            raise DataError(f"{url}: {key} is {total}; expected {expected}, the sum over shards")
    return manifest


def _problem(error: Exception) -> str:
    """The message of msgspec, after the field in the form that pydantic's messages have."""
    text, _, path = str(error).partition(" - at `$")
    where = path.rstrip("`").lstrip(".").replace("[", ".").replace("]", "")
    text = text[:1].lower() + text[1:]
    return f"{where}: {text}" if where else text


def split_folders(path: str, storage: StorageConfig) -> list[str]:
    """The folders with a manifest: `path` itself, or train and valid inside it.

    Raises:
        DataError: There is no manifest in any of them.
    """
    if exists(join(path, NAME), storage):
        return [path]
    inside = [join(path, name) for name in ("train", "valid")]
    folders = [folder for folder in inside if exists(join(folder, NAME), storage)]
    if not folders:
        raise DataError(f"{path}: no {NAME}; expected one there, or in train/ or valid/ below it")
    return folders


def pack_rows(rows: Index) -> bytes:
    """The stored bytes of index rows."""
    return np.ascontiguousarray(rows, dtype="<i8").tobytes()


def index_header(samples: int) -> bytes:
    """The header of `documents.npy`, of INDEX_HEADER_BYTES bytes."""
    buffer = io.BytesIO()
    shape = {"descr": "<i8", "fortran_order": False, "shape": (samples, INDEX_COLUMNS)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def _unpack_rows(data: bytes, name: str, entry: ShardEntry, dtype: str) -> Index:
    """The index rows of a shard, checked against the manifest.

    Raises:
        DataError: The rows were changed, or disagree with the manifest.
    """
    if zlib.crc32(data) != entry.index_crc32:
        raise DataError(
            f"{name}: its rows in {INDEX_NAME} have CRC-32 {zlib.crc32(data)}; expected "
            f"{entry.index_crc32} by the manifest"
        )
    rows = np.frombuffer(data, dtype="<i8").reshape(-1, INDEX_COLUMNS)
    totals = len(rows), int(rows[:, 1].sum()), int(rows[:, 2].sum())
    expected = entry.samples, entry.tokens, entry.text_bytes
    if totals != expected:
        raise DataError(
            f"{name}: (documents, tokens, bytes of text) are {totals} in {INDEX_NAME}; expected "
            f"{expected} by the manifest"
        )
    offsets, lengths, _ = rows.T
    # divided, not multiplied: a product of foreign numbers may overflow
    room = (entry.size - offsets) // np.dtype(dtype).itemsize
    if (rows < 0).any() or (offsets > entry.size).any() or (lengths > room).any():
        raise DataError(f"{name}: {INDEX_NAME} points outside its {entry.size} bytes")
    if (lengths < SHORTEST_DOCUMENT).any():
        raise DataError(
            f"{name}: {INDEX_NAME} has a document of {lengths.min()} tokens; expected at least "
            f"{SHORTEST_DOCUMENT}, BOS and EOS"
        )
    return rows


def first_rows(manifest: Manifest) -> Index:
    """Number of documents before each shard; the last entry is the total."""
    return np.cumsum([0, *(entry.samples for entry in manifest.shards)])


def read_rows(
    path: str, manifest: Manifest, shard: int, first: int, storage: StorageConfig
) -> Index:
    """The rows of a shard in `documents.npy`, which start at document `first`.

    Raises:
        DataError: The file is missing, too short or changed.
    """
    entry = manifest.shards[shard]
    start = INDEX_HEADER_BYTES + first * INDEX_COLUMNS * 8
    end = start + entry.samples * INDEX_COLUMNS * 8
    data = read_bytes(join(path, INDEX_NAME), storage, start, end)
    return _unpack_rows(data, join(path, entry.name), entry, manifest.dtype)
