"""Pieces of tensors in files, by torch.distributed.checkpoint, without pickle on the way back.

Its own index is a pickle, which may run any code when it is read. Here the index is `index.json`;
tensors are read with `weights_only=True`.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult

from pretrain.checkpoint.boxes import Box, Piece
from pretrain.errors import CheckpointError

INDEX = "index.json"


class Shard(NamedTuple):
    """What one process has, or wants, of a whole tensor.

    Attributes:
        shape: Of the whole tensor.
        pieces: Parts of it that do not overlap.
    """

    shape: tuple[int, ...]
    pieces: list[Piece]


class PieceSavePlanner(DefaultSavePlanner):
    """Plans to write a `dict[str, Shard]`; torch merges and checks the plans of all ranks."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take what this rank has."""
        del storage_meta
        self.state_dict, self.is_coordinator = state_dict, is_coordinator

    def create_local_plan(self) -> SavePlan:
        """One item per piece."""
        items = []
        for name, shard in self.state_dict.items():
            for piece in shard.pieces:
                self._values[name, piece.box.offsets] = piece.values
                data = TensorWriteData(
                    _chunk(piece.box),
                    TensorProperties(dtype=piece.values.dtype),
                    torch.Size(shard.shape),
                )
                index = MetadataIndex(name, piece.box.offsets)
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The values of an item."""
        return self._values[write_item.index.fqn, tuple(write_item.index.offset or ())]


class JsonIndexWriter(FileSystemWriter):
    """One file per rank, forced onto the disk, and the index as JSON."""

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index; on one rank, when all files are written."""
        tensors: dict[str, Any] = metadata.state_dict_metadata
        stored: dict[str, list[Any]] = {name: [] for name in tensors}
        sizes = {
            (name, tuple(chunk.offsets)): tuple(chunk.sizes)
            for name, tensor in tensors.items()
            for chunk in tensor.chunks
        }
        for result in (result for of_rank in results for result in of_rank):
            name, offsets = result.index.fqn, tuple(result.index.offset or ())
            info = result.storage_data
            entry = [offsets, sizes[name, offsets], info.relative_path, info.offset, info.length]
            stored[name].append(entry)
        index = {
            name: {"shape": tuple(tensor.size), "pieces": stored[name]}
            for name, tensor in tensors.items()
        }
        with (Path(self.path) / INDEX).open("w", encoding="utf-8") as stream:
            json.dump(index, stream)
            stream.flush()
            os.fsync(stream.fileno())


class JsonIndexReader(FileSystemReader):
    """Reads what `JsonIndexWriter` wrote."""

    def read_metadata(self) -> Metadata:
        """The index.

        Raises:
            CheckpointError: It is missing, or not an index.
        """
        path = Path(self.path) / INDEX
        tensors: dict[str, Any] = {}
        storage: dict[MetadataIndex, _StorageInfo] = {}
        try:
            for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
                chunks = []
                for offsets, sizes, file, offset, length in entry["pieces"]:
                    chunks.append(_chunk(Box(tuple(offsets), tuple(sizes))))
                    key = MetadataIndex(name, offsets)
                    storage[key] = _StorageInfo(_plain(file), int(offset), int(length))
                size = torch.Size(entry["shape"])
                tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), size, chunks)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: expected an index of tensors ({type(error).__name__}: {error})"
            ) from error
        return Metadata(tensors, storage_data=storage)


class _PieceLoadPlanner(DefaultLoadPlanner):
    """Says where what is read belongs."""

    def __init__(self, wanted: Mapping[str, Shard]):
        super().__init__()
        self._values = {
            (name, piece.box.offsets): piece.values
            for name, shard in wanted.items()
            for piece in shard.pieces
        }

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The part of a wanted piece that an item fills."""
        index = read_item.dest_index
        values = self._values[index.fqn, tuple(index.offset or ())]
        for dim, (offset, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            values = values.narrow(dim, offset, length)
        return values


def read_pieces(folder: Path, wanted: Mapping[str, Shard]) -> None:
    """Fill the pieces of this process from a folder, however they were cut when written.

    No collective. Reads the files' pieces that overlap, one at a time.

    Raises:
        CheckpointError: A tensor is missing, has another shape, or is not there whole.
    """
    reader = JsonIndexReader(folder)
    metadata = reader.read_metadata()
    items: list[ReadItem] = []
    for name, shard in wanted.items():
        stored = metadata.state_dict_metadata.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise CheckpointError(f"{folder}: {name} is missing")
        if tuple(stored.size) != shard.shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(stored.size)}; expected {shard.shape}"
            )
        chunks = [_chunk(piece.box) for piece in shard.pieces]
        found = create_read_items_for_chunk_list(name, stored, chunks)
        num_wanted = sum(math.prod(chunk.sizes) for chunk in chunks)
        num_found = sum(math.prod(item.lengths) for item in found)
        if num_found != num_wanted:
            raise CheckpointError(
                f"{folder}: {name}: found {num_found:,} of {num_wanted:,} elements: shards are "
                "missing"
            )
        items += found
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    try:
        reader.read_data(LoadPlan(items), _PieceLoadPlanner(wanted)).wait()
    except (OSError, RuntimeError, EOFError, AssertionError, UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder}: cannot be read: {first}") from error


def stored_pieces(folder: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of every tensor of a folder, and the number of its pieces.

    Raises:
        CheckpointError: There is no index.
    """
    metadata = JsonIndexReader(folder).read_metadata()
    return {
        name: (tuple(tensor.size), len(tensor.chunks))
        for name, tensor in metadata.state_dict_metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
    }


def missing_elements(folder: Path) -> Iterator[str]:
    """What is wrong with the pieces of a folder's tensors: one line per finding.

    Raises:
        CheckpointError: There is no index.
    """
    metadata = JsonIndexReader(folder).read_metadata()
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        expected = math.prod(tensor.size)
        found = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
        if found != expected:
            yield f"{name}: its pieces have {found:,} elements; expected {expected:,}"
    for file in sorted({info.relative_path for info in metadata.storage_data.values()}):
        if not (folder / file).is_file():
            yield f"{folder / file}: no such shard"


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))


def _plain(name: object) -> str:
    """Refuse a file's name that leads elsewhere."""
    if not isinstance(name, str) or name != Path(name).name:
        raise ValueError(f"expected a file beside the index, found {name!r}")
    return name
