"""Documents that share n-grams of words with evaluation texts.

A document with any n-gram of an evaluation text is dropped whole: the rule of Brown et al. 2020
(GPT-3), appendix C, with its n = 13, but without cutting documents into pieces.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.build.duplicates.signatures import ngram_hashes
from data_pipeline.errors import DataError
from data_pipeline.input_files import open_regular
from data_pipeline.storage.atomic import write_atomically

Hashes = npt.NDArray[np.uint64]


class EvaluationTexts(NamedTuple):
    """N-grams of evaluation texts.

    Attributes:
        hashes: Hashes of all n-grams, sorted.
        num_texts: Texts.
        num_short: Texts of fewer words than an n-gram, which cannot be found.
    """

    hashes: Hashes
    num_texts: int
    num_short: int


def read_texts(paths: Sequence[str], length: int, max_line_bytes: int) -> EvaluationTexts:
    """The n-grams of every string in the records of JSONL files.

    Args:
        paths: The files.
        length: Words of an n-gram.
        max_line_bytes: Bytes of the longest line.

    Raises:
        DataError: A file cannot be read, or holds something else.
    """
    found: list[Hashes] = [np.empty(0, dtype=np.uint64)]
    num_texts = num_short = 0
    for path in paths:
        for texts in _records(Path(path), max_line_bytes):
            for text in texts:
                hashes = ngram_hashes(text, length)
                num_texts += 1
                num_short += not len(hashes)
                found.append(np.unique(hashes))
    return EvaluationTexts(np.unique(np.concatenate(found)), num_texts, num_short)


def file_digest(path: str) -> str:
    """The SHA-256 of a file."""
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _records(path: Path, max_line_bytes: int) -> Iterator[list[str]]:
    """The strings of each record."""
    with open_regular(path) as file:
        for number in itertools.count(1):
            line = file.readline(max_line_bytes + 1)
            if not line:
                return
            where = f"decontaminate: {path}, line {number}"
            if len(line) > max_line_bytes:
                raise DataError(
                    f"{where}: more than {max_line_bytes:,} bytes; expected at most those of a "
                    "document (read.max_document_bytes)"
                )
            if line.strip():
                try:
                    yield list(_strings(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{where}: {error}; expected one JSON value per line"
                    ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def save_hashes(path: Path, texts: EvaluationTexts) -> None:
    """Write the n-grams where workers find them."""
    with write_atomically(path) as file:
        np.save(file, texts.hashes)


@functools.lru_cache(maxsize=1)
def load_hashes(path: Path) -> Hashes:
    """The n-grams, mapped once per process."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def is_contaminated(text: str, length: int, hashes: Hashes) -> bool:
    """Whether a text has an n-gram of the evaluation texts."""
    if not len(hashes):
        return False
    own = ngram_hashes(text, length)
    places = np.minimum(np.searchsorted(hashes, own), len(hashes) - 1)
    return bool((hashes[places] == own).any())
