"""Writer of pieces of tensors by torch.distributed.checkpoint; `tensor_reader` reads them.

Torch's own index is a pickle, which may run any code when it is read. Here it is `index.json`.
"""

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult

from pretrain.checkpoint.boxes import Box, Piece

INDEX = "index.json"


class Shard(NamedTuple):
    """Pieces of a whole tensor that one process holds or wants.

    Attributes:
        shape: Shape of the whole tensor.
        pieces: Parts of the tensor that do not overlap.
    """

    shape: tuple[int, ...]
    pieces: list[Piece]


class PieceSavePlanner(DefaultSavePlanner):
    """Planner that writes a `dict[str, Shard]`; torch merges and checks all ranks' plans."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Store the shards of this rank."""
        del storage_meta
        self.state_dict, self.is_coordinator = state_dict, is_coordinator

    def create_local_plan(self) -> SavePlan:
        """The plan of this rank: one item per piece."""
        items = []
        for name, shard in self.state_dict.items():
            for piece in shard.pieces:
                self._values[name, piece.box.offsets] = piece.values
                data = TensorWriteData(
                    chunk_of(piece.box),
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
    """Writer of one file per rank, forced onto the disk, and of the index as JSON."""

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index, on one rank, once all files are written."""
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
        _write_index(Path(self.path), index)


class StreamedWriter:
    """Writer of pieces one by one, in one process, in the format of `JsonIndexWriter`.

    Args:
        folder: Folder to create.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder, self._index = folder, dict[str, dict[str, Any]]()
        self._name = "__0_0.distcp"
        self._file = (folder / self._name).open("wb")

    def add(self, name: str, shape: tuple[int, ...], piece: Piece) -> None:
        """Write a piece of the tensor of this name and shape."""
        data = io.BytesIO()
        torch.save(piece.values.clone(), data)
        begin, length = self._file.tell(), data.tell()
        self._file.write(data.getbuffer())
        entry = self._index.setdefault(name, {"shape": shape, "pieces": []})
        entry["pieces"].append([piece.box.offsets, piece.box.sizes, self._name, begin, length])

    def finish(self) -> None:
        """Write the index, once all pieces are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _write_index(self._folder, self._index)


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    with (folder / INDEX).open("w", encoding="utf-8") as stream:
        json.dump(index, stream)
        stream.flush()
        os.fsync(stream.fileno())


def chunk_of(box: Box) -> ChunkStorageMetadata:
    """A box as torch's own record."""
    return ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
