"""Texts that are evaluated, and the loss of one."""

import math
import sys
from pathlib import Path
from typing import NamedTuple

from data_pipeline.build.readers import read_documents
from data_pipeline.config import ReadConfig
from data_pipeline.errors import DataError

WHOLE_FILE = ReadConfig(format="text", document="file", max_document_bytes=sys.maxsize)


class TextLoss(NamedTuple):
    """The loss of one text.

    Attributes:
        name: File of the text.
        nll: Sum over its tokens, in nats; the end of the document is not predicted.
        num_tokens: Number of predicted tokens.
        num_bytes: UTF-8 bytes of the text.
    """

    name: str
    nll: float
    num_tokens: int
    num_bytes: int

    @property
    def nats_per_token(self) -> float:
        """Mean loss of its tokens."""
        return self.nll / max(1, self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per byte, which does not depend on the tokenizer."""
        return self.nll / max(1, self.num_bytes) / math.log(2.0)

    def __str__(self) -> str:
        loss = self.nats_per_token
        return (
            f"{self.name}: {self.num_tokens:,} tokens, {self.num_bytes:,} bytes: "
            f"{loss:.4f} nats/token, perplexity {math.exp(loss):.2f}, "
            f"{self.bits_per_byte:.4f} bits/byte"
        )


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, read as by `data build`.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or is empty.
    """
    for document in read_documents(file, WHOLE_FILE):
        return document.text
    raise DataError(f"{file}: expected text, found none")
