"""`resonance data verify`: comparison of shards with their manifest."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from data_pipeline.config import StorageConfig, VerifyConfig
from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from data_pipeline.shards.manifest import (
    Index,
    Manifest,
    first_rows,
    load_manifest,
    read_rows,
    split_folders,
)
from data_pipeline.shards.npy import load_npy
from data_pipeline.shards.tar import members
from data_pipeline.storage.files import is_remote, join, local_path, protocol_of
from data_pipeline.storage.listing import list_files
from data_pipeline.storage.streams import open_raw

_TOKENS_SUFFIX = ".tokens.npy"
_DRAIN_BYTES = 1 << 20


class VerifyReport(NamedTuple):
    """Number of shards, documents and tokens that were checked, and the problems in them."""

    path: str
    shards: int
    samples: int
    tokens: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all shards agree with the manifest."""
        return not self.problems

    def __str__(self) -> str:
        """The report as text for a terminal."""
        checked = f"{self.shards} shards, {self.samples:,} documents, {self.tokens:,} tokens"
        if self.ok:
            return f"{self.path}: {checked}: all agree with the manifest"
        return "\n".join(
            [f"{self.path}: {len(self.problems)} problems in {checked}:", *self.problems]
        )


def verify(config: VerifyConfig) -> VerifyReport:
    """Read all shards and compare checksums, counts, offsets and token ids.

    Raises:
        DataError: Something disagrees with the manifest; the message lists every problem.
    """
    report = inspect(config)
    if not report.ok:
        raise DataError(str(report))
    return report


def inspect(config: VerifyConfig) -> VerifyReport:
    """Like `verify`, with problems in the report instead of an exception.

    Raises:
        DataError: The manifest is missing or broken.
    """
    storage = config.storage
    folders = split_folders(config.path, storage)
    manifests = [load_manifest(folder, storage) for folder in folders]
    problems: list[str] = []
    with tqdm(
        total=sum(len(manifest.shards) for manifest in manifests), unit="shard", disable=None
    ) as progress:
        for folder, manifest in zip(folders, manifests, strict=True):
            problems += _unlisted(folder, manifest)
            for number, first in enumerate(first_rows(manifest)[:-1].tolist()):
                problems += _check_shard(folder, manifest, number, first, storage)
                progress.update()
    if len({manifest.tokenizer.fingerprint for manifest in manifests}) > 1:
        problems.append(f"{config.path}: its splits were made with different tokenizers")
    return VerifyReport(
        path=redact(config.path),
        shards=sum(len(manifest.shards) for manifest in manifests),
        samples=sum(manifest.samples for manifest in manifests),
        tokens=sum(manifest.tokens for manifest in manifests),
        problems=tuple(problems),
    )


def check_sizes(path: str, manifest: Manifest, storage: StorageConfig) -> None:
    """Compare the sizes of shards with their manifest, without reading the shards.

    HTTP has no folders to list: there, only the first and the last shard are checked.

    Raises:
        DataError: A shard is missing, or has another size.
    """
    entries = manifest.shards
    if protocol_of(path) in ("http", "https"):
        entries = entries[:: max(1, len(entries) - 1)]
        files = [file for entry in entries for file in list_files(join(path, entry.name), storage)]
    else:
        files = list_files(path, storage)
    sizes = {file.url.rpartition("/")[2]: file.size for file in files}
    for entry in entries:
        url, size = join(path, entry.name), sizes.get(entry.name, "missing")
        if size == "missing":
            raise DataError(f"{url}: no such file; expected {entry.size} bytes by the manifest")
        if size not in (entry.size, None):
            raise DataError(f"{url}: {size} bytes; expected {entry.size} by the manifest")


def _unlisted(folder: str, manifest: Manifest) -> list[str]:
    if is_remote(folder):
        return []
    listed = {entry.name for entry in manifest.shards}
    names = sorted(path.name for path in local_path(folder).glob("*.tar"))
    return [f"{join(folder, name)}: not in the manifest" for name in names if name not in listed]


class _Hashing(io.RawIOBase):
    """Stream that hashes and counts the bytes read from it."""

    def __init__(self, source: BinaryIO):
        super().__init__()
        self._source, self._sha256 = source, hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        self._sha256.update(data)
        self.size += len(data)
        return len(data)

    def finish(self) -> str:
        """Read to the end.

        Returns:
            The SHA-256 of all bytes.
        """
        while self.read(_DRAIN_BYTES):
            pass
        return self._sha256.hexdigest()


def _check_shard(
    folder: str, manifest: Manifest, number: int, first: int, storage: StorageConfig
) -> list[str]:
    entry = manifest.shards[number]
    url = join(folder, entry.name)
    problems: list[str] = []
    try:
        index = read_rows(folder, manifest, number, first, storage)
    except DataError as error:
        problems.append(str(error))
        index = None
    try:
        with open_raw(url, storage) as raw:
            stream = _Hashing(raw)
            try:
                problems += _check_content(url, stream, manifest, index, storage)
            except DataError as error:
                problems.append(str(error))
            sha256 = stream.finish()
    except DataError as error:
        return [*problems, str(error)]
    if stream.size != entry.size:
        problems.append(f"{url}: {stream.size} bytes; expected {entry.size} by the manifest")
    elif sha256 != entry.sha256:
        problems.append(f"{url}: SHA-256 is {sha256}; expected {entry.sha256} by the manifest")
    return problems


def _document_problem(tokens: Any, manifest: Manifest) -> str:
    """Problem of the tokens of a document; empty if they are as its kind has them."""
    tokenizer, end = manifest.tokenizer, len(tokens) - manifest.label_slots
    texts, labels = tokens[:end], tokens[end:]
    if end < 2 or (int(texts[0]), int(texts[-1])) != (tokenizer.bos_id, tokenizer.eos_id):
        return "does not begin with BOS and end with EOS"
    if int(texts.max()) >= tokenizer.vocab_size:
        return f"has token {texts.max()}; expected less than {tokenizer.vocab_size}"
    if len(labels) and int(labels.max()) > len(manifest.labels):
        return f"has label {labels.max()}; expected less than {len(manifest.labels)}"
    if manifest.kind == "pairs":
        ends = (texts == tokenizer.eos_id).nonzero()[0].tolist()
        if len(ends) != 2 or int(texts[ends[0] + 1]) != tokenizer.bos_id:
            return f"has {len(ends)} texts; expected a pair of two, each BOS, tokens, EOS"
    return ""


def _check_content(
    url: str, stream: _Hashing, manifest: Manifest, index: Index | None, storage: StorageConfig
) -> Iterator[str]:
    """The problems with the members of a shard."""
    row = 0
    for name, offset, data in members(url, cast(BinaryIO, stream), storage):
        if not name.endswith(_TOKENS_SUFFIX):
            continue
        try:
            tokens = load_npy(data)
        except ValueError as error:
            yield f"{url}: {name} is not an array ({error})"
            continue
        if tokens.dtype != np.dtype(manifest.dtype) or tokens.ndim != 1 or len(tokens) < 2:
            found = f"{tokens.dtype} {tokens.shape}"
            yield f"{url}: {name} is {found}; expected {manifest.dtype} tokens"
        elif problem := _document_problem(tokens, manifest):
            yield f"{url}: {name} {problem}"
        start = offset + len(data) - tokens.nbytes
        place = start, len(tokens)
        if index is not None and row < len(index) and tuple(index[row, :2].tolist()) != place:
            yield f"{url}: {name} is not where the index says"
        row += 1
    if index is not None and row != len(index):
        yield f"{url}: {row} documents; expected {len(index)} by the manifest"
