"""`resonance embed`: a vector for every text, in a Parquet file.

Shape letters: B batch, T time (tokens), D channels.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from data_pipeline.build.readers import Document, Reader
from data_pipeline.build.sources import Slice, source_files
from data_pipeline.errors import DataError
from data_pipeline.storage.atomic import write_atomically
from data_pipeline.tokenizer import Tokenizer
from pretrain.commands import EmbedCommand
from pretrain.errors import RunError
from pretrain.huggingface.load import load_pretrained
from spectral.encoder import SpectralEncoder


class Embedded(NamedTuple):
    """Vectors that were written.

    Attributes:
        output: The Parquet file.
        num_texts: Number of texts.
        dim: Numbers of each vector.
    """

    output: str
    num_texts: int
    dim: int

    def __str__(self) -> str:
        return f"{self.output}: {self.num_texts:,} vectors of {self.dim} numbers"


def embed(command: EmbedCommand) -> Embedded:
    """Write the pooled vector of every text, with its file and its number there.

    Raises:
        CheckpointError: The model is missing or damaged.
        DataError: A file cannot be read, or holds bad input.
        RunError: The model is no encoder, or there is no text.
    """
    loaded = load_pretrained(command.checkpoint)
    if not isinstance(loaded.model, SpectralEncoder):
        raise RunError(
            f"{loaded.path}: a model that predicts next tokens; expected an encoder "
            "(objective.kind masked_token) or a classifier"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = loaded.model.to(device)
    dim = model.config.dim
    schema = pa.schema(
        [
            ("source", pa.string()),
            ("number", pa.int64()),
            ("vector", pa.list_(pa.float32(), dim)),
        ]
    )
    count = 0
    with (
        write_atomically(command.output) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        stream = _documents(command)
        while numbered := list(islice(stream, command.batch_size)):
            documents = [document for _, document in numbered]
            vectors = _vectors(model, loaded.tokenizer, documents, device, command.normalise)
            columns = [
                pa.array([document.source for document in documents]),
                pa.array([number for number, _ in numbered]),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.flatten()), dim),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(documents)
        if not count:
            raise RunError(f"{', '.join(command.inputs)}: no text; expected at least one")
    return Embedded(str(command.output), count, dim)


def _documents(command: EmbedCommand) -> Iterator[tuple[int, Document]]:
    """The texts of all files, numbered in each; empty ones are bad input."""
    reader = Reader(command.read, command.storage, on_bad=None)
    for file in source_files(command.inputs, command.read, command.storage):
        for number, document in enumerate(reader.documents(Slice(file))):
            if not document.text.strip():
                raise DataError(f"{file.url}: text {number} is empty; expected words")
            yield number, document


@torch.no_grad()
def _vectors(
    model: SpectralEncoder,
    tokenizer: Tokenizer,
    documents: list[Document],
    device: torch.device,
    normalise: bool,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Vectors [B, D] of texts, each in a row; padding is another document of the row."""
    ids = [
        [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
        for document in documents
    ]
    longest = max(map(len, ids))
    tokens_BT = torch.full((len(ids), longest), tokenizer.pad_id)
    segments_BT = torch.ones_like(tokens_BT)
    for row, text in enumerate(ids):
        tokens_BT[row, : len(text)], segments_BT[row, : len(text)] = torch.tensor(text), 0
    pooled_BSD = model.pooled(tokens_BT.to(device), segments_BT.to(device))
    pooled_BD = pooled_BSD[:, 0].float()
    if normalise:
        pooled_BD = torch.nn.functional.normalize(pooled_BD, dim=-1)
    vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = pooled_BD.cpu().numpy()
    return vectors
