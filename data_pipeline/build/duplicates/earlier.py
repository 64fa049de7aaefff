"""Documents of earlier builds, read back from their tokens: new ones are compared with them."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from data_pipeline.build.duplicates.documents import RowFile
from data_pipeline.build.duplicates.signatures import document_hash, signature
from data_pipeline.config import BuildConfig, DataConfig, StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import NAME, load_manifest, split_folders
from data_pipeline.shards.reader import ShardReader
from data_pipeline.storage.atomic import write_atomically
from data_pipeline.storage.files import join, read_bytes
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

_GROUP_ROWS = 4096
_SCHEMA = pa.schema([("hash", pa.binary(16)), ("signature", pa.list_(pa.uint32()))])


class EarlierShard(NamedTuple):
    """Shard of an earlier build.

    Attributes:
        folder: Folder or URL of its split.
        number: Its number in the manifest.
        documents: Number of its documents.
    """

    folder: str
    number: int
    documents: int


def earlier_shards(
    paths: Sequence[str], tokenizer: Tokenizer, storage: StorageConfig
) -> list[EarlierShard]:
    """The shards of earlier builds, in the order given.

    Raises:
        DataError: One is missing, or another tokenizer made it.
    """
    shards: list[EarlierShard] = []
    for path in paths:
        for folder in split_folders(path, storage):
            manifest = load_manifest(folder, storage)
            if manifest.tokenizer.fingerprint != tokenizer.fingerprint:
                raise DataError(
                    f"against: {folder}: made by another tokenizer; expected {tokenizer.path}, "
                    "which reads its texts back"
                )
            shards += (
                EarlierShard(folder, number, shard.samples)
                for number, shard in enumerate(manifest.shards)
            )
    return shards


def identities(paths: Sequence[str], storage: StorageConfig) -> list[str]:
    """A digest of each split of earlier builds: equal ones hold the same documents."""
    return [
        hashlib.sha256(read_bytes(join(folder, NAME), storage)).hexdigest()
        for path in paths
        for folder in split_folders(path, storage)
    ]


@functools.lru_cache(maxsize=1)
def _reader(folder: str, storage: StorageConfig) -> ShardReader:
    return ShardReader(folder, load_manifest(folder, storage), DataConfig(storage=storage))


def earlier_file(work: Path, number: int, shard: EarlierShard) -> RowFile:
    """The file of what one of the shards is compared by."""
    return RowFile(work / f"earlier-{number:06d}.parquet", shard.documents)


def read_earlier(config: BuildConfig, shard: EarlierShard, path: Path) -> None:
    """Write hashes and signatures of a shard's documents.

    Raises:
        DataError: The shard is missing or damaged.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    reader = _reader(shard.folder, config.storage)
    near = config.cleaning.near_duplicates
    with (
        write_atomically(path) as file,
        parquet.ParquetWriter(file, _SCHEMA, compression="zstd", use_dictionary=False) as writer,
    ):
        for start in range(0, shard.documents, _GROUP_ROWS):
            rows = []
            for row in range(start, min(start + _GROUP_ROWS, shard.documents)):
                tokens = reader.tokens(shard.number, row)
                if isinstance(tokens, str):
                    raise DataError(f"against: {reader.url(shard.number)}: {tokens}")
                text = tokenizer.decode(_text_of(tokens.tolist(), tokenizer))
                values = signature(text, config.cleaning) if near else None
                rows.append({"hash": document_hash(text), "signature": values})
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))


def _text_of(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a document's text: labels, or the target of a pair, come after its EOS."""
    return tokens[1 : tokens.index(tokenizer.eos_id, 1)]
