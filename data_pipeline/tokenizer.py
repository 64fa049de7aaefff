"""Tokenizers behind one interface: SentencePiece, raw bytes and Hugging Face."""

import hashlib
from pathlib import Path
from typing import Protocol

from data_pipeline.errors import DataError
from data_pipeline.tokenizer_kinds.huggingface import DEFINITION, NAMES, HuggingFaceTokenizer
from data_pipeline.tokenizer_kinds.sentencepiece_model import SentencePieceTokenizer

# a SentencePiece model in a folder
MODEL_FILE = "tokenizer.model"

SPECIAL_IDS = {"unk": 0, "bos": 1, "eos": 2, "pad": 3}


class Tokenizer(Protocol):
    """Interface of a tokenizer, as the pipeline and the trainer use it.

    Attributes:
        kind: Name of the implementation: 'sentencepiece', 'byte' or 'huggingface'.
        path: File or folder it was loaded from.
        vocab_size: Highest id + 1.
        fingerprint: SHA-256 (hex) of everything that decides which ids a text becomes.
        unk_id: Id for text that cannot be spelled; None if every text can.
    """

    kind: str
    path: str
    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    fingerprint: str
    unk_id: int | None

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens."""


class ByteTokenizer:
    """Tokenizer of UTF-8 bytes: ids 0 to 255, followed by the special tokens."""

    kind = "byte"
    path = "byte"
    bos_id, eos_id, pad_id = 256, 257, 258
    vocab_size = 259
    unk_id: int | None = None
    fingerprint = hashlib.sha256(b"bytes 0-255, bos 256, eos 257, pad 258").hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens; broken UTF-8 is replaced."""
        return bytes(id_ for id_ in ids if id_ < 256).decode(errors="replace")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer: 'byte', a SentencePiece model file, or a folder that holds a tokenizer.

    Raises:
        DataError: There is no tokenizer at `path`, or its files are broken.
    """
    if str(path) == "byte":
        return ByteTokenizer()
    path = Path(path)
    if path.is_file():
        return SentencePieceTokenizer(path)
    if not path.is_dir():
        raise DataError(
            f"{path}: no such tokenizer; expected 'byte', a SentencePiece .model file or a folder "
            f"with {DEFINITION} or {MODEL_FILE}"
        )
    if (path / DEFINITION).is_file():
        return HuggingFaceTokenizer(path)
    if (path / MODEL_FILE).is_file():
        return SentencePieceTokenizer(path / MODEL_FILE)
    names = sorted(entry.name for entry in path.iterdir())[:8]
    raise DataError(f"{path}: no {DEFINITION}; expected one, or {MODEL_FILE}, among {names}")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that its tokenizer is loaded from."""
    return [file for name in (DEFINITION, *NAMES) if (file := folder / name).is_file()]


def continuation(tokenizer: Tokenizer, last: int, tokens: list[int]) -> str:
    """The text of generated tokens, after a prompt that ends with the token `last`.

    Tokenizers that put a blank before a text omit the blank of the first token that they decode.
    """
    before, after = tokenizer.decode([last]), tokenizer.decode([last, *tokens])
    return after[len(before) :] if after.startswith(before) else tokenizer.decode(tokens)
