"""Reader of the pieces that `tensor_writer` wrote; no pickle: tensors with `weights_only`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
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

from data_pipeline.config_table import Table
from data_pipeline.foreign import first_problem, is_plain_name
from data_pipeline.input_files import MAX_JSON_BYTES, read_regular
from pretrain.checkpoint.boxes import Box, coverage_problem
from pretrain.checkpoint.tensor_writer import INDEX, Shard, chunk_of
from pretrain.errors import CheckpointError
from spectral.upgrade import parameter_name

# larger numbers would overflow torch's
_Natural = Annotated[int, Field(ge=0, lt=2**62)]
_Sizes = tuple[_Natural, ...]


class _IndexEntry(Table):
    """Entry of a tensor: its shape, and offsets, sizes, file, place and bytes of its pieces."""

    shape: _Sizes
    pieces: tuple[tuple[_Sizes, _Sizes, str, _Natural, _Natural], ...]


_INDEX = TypeAdapter(dict[str, _IndexEntry])


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
            index = _INDEX.validate_json(read_regular(path, MAX_JSON_BYTES), strict=True)
            for saved, entry in index.items():
                name = parameter_name(saved)
                chunks = []
                for offsets, sizes, file, offset, length in entry.pieces:
                    chunks.append(chunk_of(Box(offsets, sizes)))
                    info = _StorageInfo(_plain(file), offset, length)
                    storage[MetadataIndex(name, offsets)] = info
                size = torch.Size(entry.shape)
                tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), size, chunks)
        except (OSError, ValueError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else error
            raise CheckpointError(f"{path}: expected an index of tensors ({problem})") from error
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


def read_index(folder: Path) -> Metadata:
    """The index of a folder of tensors.

    Raises:
        CheckpointError: The index is missing or malformed.
    """
    return JsonIndexReader(folder).read_metadata()


def read_pieces(folder: Path, wanted: Mapping[str, Shard], metadata: Metadata) -> None:
    """Fill the pieces of this process from a folder, however they were cut when written.

    Not a collective. Reads the overlapping pieces of the files, one at a time.

    Args:
        folder: Folder of tensors with its index.
        wanted: Shards to fill, by name.
        metadata: The folder's index.

    Raises:
        CheckpointError: A tensor is missing, has another shape, or is incomplete.
    """
    reader = JsonIndexReader(folder)
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
    except Exception as error:
        # damaged archives and pickles fail in many ways
        first = str(error).partition("\n")[0]
        problem = f"{type(error).__name__}: {first}"
        raise CheckpointError(f"{folder}: cannot be read: {problem}") from error


def stored_pieces(folder: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and number of pieces of every tensor of a folder, by its name.

    Raises:
        CheckpointError: The index is missing or malformed.
    """
    metadata = read_index(folder)
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
    metadata = read_index(folder)
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


def _plain(name: str) -> str:
    """The name of a file, if it is in the folder itself."""
    if not is_plain_name(name):
        raise ValueError(f"expected a file next to the index, found {name!r}")
    return name
