"""Reader of the pieces that `tensor_writer` wrote; no pickle: tensors with `weights_only`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from pretrain.checkpoint.boxes import Box, coverage_problem
from pretrain.checkpoint.tensor_writer import INDEX, Shard, chunk_of
from pretrain.errors import CheckpointError
from spectral.upgrade import parameter_name


class JsonIndexReader(FileSystemReader):
    """Reader of the folders that `JsonIndexWriter` writes."""

    def read_metadata(self) -> Metadata:
        """The index of the folder.

        Raises:
            CheckpointError: The index is missing or malformed.
        """
        path = Path(self.path) / INDEX
        tensors: dict[str, Any] = {}
        storage: dict[MetadataIndex, _StorageInfo] = {}
        try:
            for saved, entry in json.loads(path.read_text(encoding="utf-8")).items():
                name = parameter_name(saved)
                chunks = []
                for offsets, sizes, file, offset, length in entry["pieces"]:
                    chunks.append(chunk_of(Box(tuple(offsets), tuple(sizes))))
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
    """Planner that directs what is read into the wanted pieces."""

    def __init__(self, wanted: Mapping[str, Shard]):
        super().__init__()
        self._values = {
            (name, piece.box.offsets): piece.values
            for name, shard in wanted.items()
            for piece in shard.pieces
        }

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Part of a wanted piece that an item fills."""
        index = read_item.dest_index
        values = self._values[index.fqn, tuple(index.offset or ())]
        for dim, (offset, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            values = values.narrow(dim, offset, length)
        return values


def read_pieces(folder: Path, wanted: Mapping[str, Shard]) -> None:
    """Fill the pieces of this process from a folder, however they were cut when written.

    Not a collective. Reads the overlapping pieces of the files, one at a time.

    Args:
        folder: Folder of tensors with its index.
        wanted: Shards to fill, by name.

    Raises:
        CheckpointError: A tensor is missing, has another shape, or is incomplete.
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
        # a sum alone would take one half that is there twice for the whole
        if problem := _coverage_problem(stored):
            raise CheckpointError(f"{folder}: {name}: {problem}: shards are missing")
        chunks = [chunk_of(piece.box) for piece in shard.pieces]
        items += create_read_items_for_chunk_list(name, stored, chunks)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    try:
        reader.read_data(LoadPlan(items), _PieceLoadPlanner(wanted)).wait()
    except (OSError, RuntimeError, EOFError, AssertionError, UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder}: cannot be read: {first}") from error


def stored_pieces(folder: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and number of pieces of every tensor of a folder, by its name.

    Raises:
        CheckpointError: The index is missing or malformed.
    """
    metadata = JsonIndexReader(folder).read_metadata()
    return {
        name: (tuple(tensor.size), len(tensor.chunks))
        for name, tensor in metadata.state_dict_metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
    }


def missing_elements(folder: Path) -> Iterator[str]:
    """Findings about the pieces of a folder's tensors: one line each.

    Raises:
        CheckpointError: The index is missing or malformed.
    """
    metadata = JsonIndexReader(folder).read_metadata()
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        if problem := _coverage_problem(tensor):
            yield f"{name}: {problem}"
    for file in sorted({info.relative_path for info in metadata.storage_data.values()}):
        if not (folder / file).is_file():
            yield f"{folder / file}: no such shard"


def _coverage_problem(tensor: TensorStorageMetadata) -> str:
    boxes = (Box(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in tensor.chunks)
    return coverage_problem(tuple(tensor.size), boxes)


def _plain(name: object) -> str:
    """The name of a file, once it is seen to be in the folder itself."""
    if not isinstance(name, str) or name != Path(name).name:
        raise ValueError(f"expected a file next to the index, found {name!r}")
    return name
