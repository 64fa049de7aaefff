"""Training of a SentencePiece tokenizer on a stream of documents."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from data_pipeline.build.readers import Reader
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.config import TokenizerTrainConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.atomic import write_atomically
from data_pipeline.tokenizer import SPECIAL_IDS

logger = logging.getLogger(__name__)

# the trainer silently drops longer sentences, so none is passed to it
_CHUNK_CHARACTERS = 4096
_MAX_SENTENCE_BYTES = 8 * _CHUNK_CHARACTERS


def train_tokenizer(config: TokenizerTrainConfig) -> Path:
    """Train a SentencePiece model and write it to `config.output`.

    Nothing is normalised: spaces, tabs and line ends survive encoding and decoding.

    Returns:
        The path of the model file.

    Raises:
        DataError: The inputs cannot be read, hold no text, or do not support the vocabulary.
    """
    output = Path(config.output)
    model = io.BytesIO()
    chunks = _Chunks(config)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            model_type=config.model_type,
            vocab_size=config.vocab_size,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            input_sentence_size=config.max_sentences,
            shuffle_input_sentence=True,
            num_threads=config.num_threads,
            unk_id=SPECIAL_IDS["unk"],
            bos_id=SPECIAL_IDS["bos"],
            eos_id=SPECIAL_IDS["eos"],
            pad_id=SPECIAL_IDS["pad"],
            minloglevel=2,
        )
    except RuntimeError as error:
        if chunks.error is not None:
            raise chunks.error from error
        raise _explain(config, chunks.num_characters, str(error)) from error
    if chunks.error is not None:
        raise chunks.error
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(output) as file:
        file.write(model.getvalue())
    return output


class _Chunks:
    """The documents as chunks of whole lines; stores an error that the trainer would swallow."""

    def __init__(self, config: TokenizerTrainConfig):
        self._config = config
        self.num_characters = 0
        self.error: DataError | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts():
                for chunk in _chunks(text):
                    self.num_characters += len(chunk)
                    yield chunk
        except DataError as error:
            self.error = error

    def _texts(self) -> Iterator[str]:
        config = self._config
        files = source_files(config.inputs, config.read, config.storage)
        reader = Reader(config.read, config.storage, on_bad=_warn)
        for part in plan_parts(files, config.read, part_bytes=1 << 62):
            for piece in part.slices:
                for document in reader.documents(piece):
                    yield document.text


def _warn(reason: str, where: str) -> None:
    logger.warning("skipped: %s: %s", reason, where)


def _chunks(text: str) -> Iterator[str]:
    """A text in chunks that the trainer accepts, cut at line ends or inside longer lines."""
    start = 0
    while start < len(text):
        end = start + _CHUNK_CHARACTERS
        if end < len(text):
            line_end = text.rfind("\n", start, end) + 1
            end = line_end if line_end > start else end
        yield text[start:end]
        start = end


def _explain(config: TokenizerTrainConfig, num_characters: int, message: str) -> DataError:
    inputs = ", ".join(config.inputs)
    if "sentences_.empty()" in message:
        return DataError(f"{inputs}: no text found; expected text to train a tokenizer on")
    if highest := re.search(r"Vocabulary size too high.*<= (\d+)", message):
        return DataError(
            f"vocab_size: {config.vocab_size} is more than the text supports ({num_characters} "
            f"characters in {inputs}); expected at most {highest[1]}, or more text"
        )
    if lowest := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return DataError(
            f"vocab_size: {config.vocab_size} is less than the characters of the text; expected "
            f"at least {lowest[1]}, or a lower character_coverage"
        )
    return DataError(f"{inputs}: SentencePiece cannot train on this text ({message})")
