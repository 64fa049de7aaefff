"""Tokenizers behind one interface: SentencePiece, raw bytes and Hugging Face."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import sentencepiece

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json

# SentencePiece writes spaces as this character, and decodes it as a space
_SPACE_MARK = "\u2581"
# longer texts are encoded in pieces: the memory of one call grows with its input
_PIECE_CHARACTERS = 1 << 18

SPECIAL_IDS = {"unk": 0, "bos": 1, "eos": 2, "pad": 3}


class Tokenizer(Protocol):
    """Interface of a tokenizer, as the pipeline and the trainer use it.

    Attributes:
        kind: Name of the implementation: 'sentencepiece', 'byte' or 'huggingface'.
        path: File or folder it was loaded from.
        vocab_size: Number of ids.
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


class SentencePieceTokenizer:
    """Tokenizer of a trained SentencePiece model."""

    kind = "sentencepiece"

    def __init__(self, path: Path):
        model = path.read_bytes()
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"{path}: not a SentencePiece model ({error})") from error
        self.path = str(path)
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.vocab_size = int(self._model.get_piece_size())
        self.bos_id, self.eos_id, self.pad_id = (
            int(identify()) for identify in (self._model.bos_id, self._model.eos_id, self._pad_id)
        )
        if min(self.bos_id, self.eos_id) < 0:
            raise DataError(
                f"{path}: the model has no <s> or </s>; expected both, to end documents"
            )
        mark = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        has_bytes = self._model.unk_id() not in mark
        self.unk_id = None if has_bytes else int(self._model.unk_id())
        self._space_mark_ids = mark if has_bytes else [self._model.unk_id()]

    def _pad_id(self) -> int:
        pad_id = int(self._model.pad_id())
        return pad_id if pad_id >= 0 else int(self._model.eos_id())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        if len(text) <= _PIECE_CHARACTERS and _SPACE_MARK not in text:
            return self._model.encode(text)
        ids: list[int] = []
        for number, stretch in enumerate(text.split(_SPACE_MARK)):
            if number:
                ids += self._space_mark_ids
            for piece in _pieces(stretch, _PIECE_CHARACTERS):
                ids += self._model.encode(piece)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens."""
        # SentencePiece itself would write " ⁇ " for unknown text
        return str(self._model.decode([id_ for id_ in ids if id_ != self._model.unk_id()]))


def _pieces(text: str, limit: int) -> list[str]:
    """A long text, cut before spaces: no SentencePiece token crosses such a cut."""
    pieces, start = [], 0
    while len(text) - start > limit:
        cut = text.rfind(" ", start + 1, start + limit)
        # before the whole run of spaces: a token may hold several
        while cut > start and text[cut - 1] == " ":
            cut -= 1
        cut = cut if cut > start else start + limit
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    return pieces


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


class HuggingFaceTokenizer:
    """Tokenizer of a folder with tokenizer.json, as `save_pretrained` writes it."""

    kind = "huggingface"

    def __init__(self, path: Path):
        import tokenizers

        file = path / "tokenizer.json"
        if not file.is_file():
            names = sorted(entry.name for entry in path.iterdir())[:8]
            raise DataError(f"{path}: no tokenizer.json; expected one among {names}")
        definition = file.read_bytes()
        try:
            self._model: Any = tokenizers.Tokenizer.from_buffer(definition)
        except ValueError as error:
            raise DataError(f"{file}: not a tokenizer definition ({error})") from error
        # settings for batches of short texts would cut or pad documents
        self._model.no_truncation()
        self._model.no_padding()
        self.path = str(path)
        self.vocab_size = int(self._model.get_vocab_size())
        special_names = self._special_names(path)
        self.eos_id = self._special(special_names.get("eos_token"), file, "eos_token")
        self.bos_id = self._special(special_names.get("bos_token"), file, "", self.eos_id)
        self.pad_id = self._special(special_names.get("pad_token"), file, "", self.eos_id)
        self.unk_id = self._model.token_to_id(special_names.get("unk_token", ""))
        specials = f"{self.bos_id} {self.eos_id} {self.pad_id}"
        self.fingerprint = hashlib.sha256(definition + specials.encode()).hexdigest()

    @staticmethod
    def _special_names(path: Path) -> dict[str, str]:
        config = path / "tokenizer_config.json"
        table = read_json(config) if config.exists() else {}
        if not isinstance(table, dict):
            raise DataError(f"{config}: found a {type(table).__name__}; expected an object")
        names = {}
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = table.get(key) or None
            # older files write a special token as an object
            name = value.get("content") if isinstance(value, dict) else value
            if name is not None and not isinstance(name, str):
                raise DataError(f"{config}: {key} is {name!r}; expected a token's text")
            if name is not None:
                names[key] = name
        return names

    def _special(self, name: str | None, file: Path, key: str, fallback: int = -1) -> int:
        id_ = None if name is None else self._model.token_to_id(name)
        if id_ is None and fallback < 0:
            raise DataError(f"{file}: {key} is {name!r}; expected a token of the vocabulary")
        return fallback if id_ is None else int(id_)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        try:
            return list(self._model.encode(text, add_special_tokens=False).ids)
        except Exception as error:
            # such as a vocabulary that lacks its own unknown token
            raise DataError(f"{self.path}: its tokenizer.json cannot encode ({error})") from error

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens."""
        return str(self._model.decode(ids, skip_special_tokens=True))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer: 'byte', a SentencePiece model file, or a Hugging Face folder.

    Raises:
        DataError: There is no tokenizer at `path`.
    """
    if str(path) == "byte":
        return ByteTokenizer()
    path = Path(path)
    if path.is_dir():
        return HuggingFaceTokenizer(path)
    if path.is_file():
        return SentencePieceTokenizer(path)
    raise DataError(
        f"{path}: no such tokenizer; expected 'byte', a SentencePiece .model file or a folder "
        "with tokenizer.json"
    )
