"""A SentencePiece model under transformers' interface, with SentencePiece's own ids."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from transformers import PreTrainedTokenizer


class ResonanceTokenizer(PreTrainedTokenizer):
    """Tokenizer of a SentencePiece model that tokenizer.json cannot express.

    `encode` puts BOS first, as in training documents. Text between two control tokens is encoded
    as a text by itself.

    Args:
        vocab_file: The SentencePiece model.
        kwargs: Keyword arguments of `PreTrainedTokenizer`; with `append_eos`, `encode` also puts
            EOS last, as for encoders.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model"}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    # makes `save_pretrained` write this file too
    _auto_class = "AutoTokenizer"

    def __init__(self, vocab_file: str, **kwargs: Any):
        self.vocab_file = vocab_file
        self.append_eos = bool(kwargs.get("append_eos", False))
        self.sp_model: Any = sentencepiece.SentencePieceProcessor(model_file=vocab_file)
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece, with those of added tokens."""
        pieces = {self.sp_model.id_to_piece(id_): id_ for id_ in range(self.vocab_size)}
        return pieces | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        # not SentencePiece's own pieces, which spell unknown text instead of naming its id
        return [self.sp_model.id_to_piece(id_) for id_ in self.sp_model.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return str(self.sp_model.decode([self._convert_token_to_id(token) for token in tokens]))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A text, or two, each after BOS."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        end = [self.eos_token_id] if self.append_eos else []
        return [id_ for text in texts for id_ in (self.bos_token_id, *text, *end)]

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str]:
        """Copy the model into a folder.

        Returns:
            The path of the copy.
        """
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if path.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)
