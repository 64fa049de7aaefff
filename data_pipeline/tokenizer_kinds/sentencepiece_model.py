"""SentencePiece models, with whatever flags they were trained with."""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from data_pipeline.errors import DataError

# longer texts are encoded in pieces: the memory of one call grows with its input
_PIECE_CHARACTERS = 1 << 18
# control pieces of models that were trained without bos_id or eos_id, as ALBERT's and T5's
_BEGIN_NAMES = ("<s>", "<bos>", "[CLS]")
_END_NAMES = ("</s>", "<eos>", "[SEP]", "<|endoftext|>")


class SentencePieceTokenizer:
    """Tokenizer of a trained SentencePiece model; its ids are SentencePiece's own."""

    kind = "sentencepiece"

    def __init__(self, path: Path):
        model = path.read_bytes()
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor()
            self._model.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(f"{path}: not a SentencePiece model ({error})") from error
        self.path = str(path)
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.vocab_size = int(self._model.get_piece_size())
        self.eos_id = self._control_id(self._model.eos_id(), _END_NAMES)
        if self.eos_id < 0:
            raise DataError(
                f"{path}: the model has no control piece that ends documents; expected an eos_id, "
                f"or one of {', '.join(_END_NAMES)}"
            )
        bos_id = self._control_id(self._model.bos_id(), _BEGIN_NAMES)
        self.bos_id = bos_id if bos_id >= 0 else self.eos_id
        pad_id = int(self._model.pad_id())
        self.pad_id = pad_id if pad_id >= 0 else self.eos_id
        self._unknown_id = int(self._model.unk_id())
        spells_bytes = self._model.is_byte(self._model.piece_to_id("<0x00>"))
        self.unk_id = None if spells_bytes else self._unknown_id

    def _control_id(self, id_: int, names: tuple[str, ...]) -> int:
        """`id_`, or that of the first control piece among `names`; -1 if there is none."""
        candidates = (self._model.piece_to_id(name) for name in names)
        return id_ if id_ >= 0 else next(filter(self._model.is_control, candidates), -1)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        if len(text) <= _PIECE_CHARACTERS or self._cuts is None:
            return self._model.encode(text)
        ids: list[int] = []
        for piece in self._cuts.pieces(self._model.normalize(text), _PIECE_CHARACTERS):
            ids += self._cuts.model.encode(piece)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens."""
        if self._unknown_id in ids:
            # SentencePiece itself would write " ⁇ " for unknown text
            ids = [id_ for id_ in ids if id_ != self._unknown_id]
        return str(self._model.decode(ids))

    @functools.cached_property
    def _cuts(self) -> "BpeCuts | None":
        return BpeCuts.of(self._model.serialized_model_proto())


class BpeCuts:
    """Places at which normalised text may be cut without changing any id of a BPE model.

    No piece holds the two characters on both sides of such a place, so no merge crosses it, and
    merges on one side do not depend on the other. Unigram models have no such places: their
    scores are float32 sums from the beginning of the text.

    Args:
        model: The model without its normaliser, for normalised text.
        inner: All pairs of characters that are neighbours inside a piece.
        known: Characters that are pieces: several unknown ones in a row are a single token.
    """

    def __init__(self, model: Any, inner: set[str], known: set[str]):
        self.model, self.inner, self.known = model, inner, known

    @classmethod
    def of(cls, serialized: bytes) -> "BpeCuts | None":
        """The cuts of a serialized model; None if it is no BPE model."""
        from sentencepiece import sentencepiece_model_pb2 as pb2

        proto = pb2.ModelProto.FromString(serialized)
        if proto.trainer_spec.model_type != pb2.TrainerSpec.BPE:
            return None
        pieces = [piece.piece for piece in proto.pieces]
        proto.normalizer_spec.Clear()
        proto.normalizer_spec.name = "identity"
        for flag in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
            setattr(proto.normalizer_spec, flag, False)
        model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        inner = {piece[at : at + 2] for piece in pieces for at in range(len(piece) - 1)}
        return cls(model, inner, {piece for piece in pieces if len(piece) == 1})

    def pieces(self, text: str, limit: int) -> Iterator[str]:
        """The text in pieces of about `limit` characters, longer only where it cannot be cut."""
        start = 0
        while start < len(text):
            near = range(start + limit, start, -1)
            beyond = range(start + limit + 1, len(text))
            is_last = len(text) - start <= limit
            places = () if is_last else itertools.chain(near, beyond)
            end = next((at for at in places if self._is_cut(text, at)), len(text))
            yield text[start:end]
            start = end

    def _is_cut(self, text: str, at: int) -> bool:
        pair = text[at - 1 : at + 1]
        return pair not in self.inner and self.known.issuperset(pair)
