"""Exact and near-duplicates in the whole corpus.

Workers compute a hash and a MinHash signature per document; one process then visits them in the
order of the corpus and keeps the first of each group, so the result depends on nothing else.
"""

import hashlib
import re
import zlib

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from data_pipeline.cleaning_config import CleaningConfig

Signature = npt.NDArray[np.uint32]
# datasketch's name for the family of hash functions behind a signature
_SCHEME = "affine32"
_WORD = re.compile(r"\w+")
# n-grams hashed at a time: bounds the memory that a huge document needs
_BATCH = 1 << 13


def document_hash(text: str) -> bytes:
    """16 bytes that identify a text; they also decide its split."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def in_valid(hash_: bytes, valid_fraction: float) -> bool:
    """Whether a document is held out; the same in every corpus that contains it."""
    return int.from_bytes(hash_[:8], "little") < valid_fraction * 2.0**64


def signature(text: str, config: CleaningConfig) -> Signature:
    """The MinHash signature of a text's word n-grams.

    Cost: about 0.5 s per MB of text.
    """
    words = np.fromiter(
        (zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())), dtype=np.uint64
    )
    length = min(config.near_ngram, max(len(words), 1))
    ngrams = np.zeros(max(len(words) - length + 1, 0), dtype=np.uint64)
    # a polynomial over the words' hashes modulo 2**64
    for start in range(length):
        ngrams += words[start : start + len(ngrams)]
        ngrams *= np.uint64(6364136223846793005)
    hashes = np.unique(ngrams >> np.uint64(32))
    minhash = MinHash(num_perm=config.near_permutations, hashfunc=int, scheme=_SCHEME)
    for start in range(0, len(hashes), _BATCH):
        minhash.update_batch(hashes[start : start + _BATCH].tolist())
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


class DuplicateFinder:
    """Index of the documents kept so far.

    Memory: about 100 bytes per document, and with near-duplicates about 4 KB per document.
    """

    def __init__(self, config: CleaningConfig):
        self._config = config
        self._hashes: set[bytes] = set()
        self._signatures: dict[int, Signature] = {}
        self._lsh = MinHashLSH(threshold=config.near_threshold, num_perm=config.near_permutations)

    def reason_to_drop(self, hash_: bytes, signature: Signature | None) -> str | None:
        """The kind of duplicate that a document is; None if it is new, and then it is added."""
        if self._config.exact_duplicates:
            if hash_ in self._hashes:
                return "exact duplicate"
            self._hashes.add(hash_)
        if signature is None:
            return None
        minhash = MinHash(
            num_perm=self._config.near_permutations, scheme=_SCHEME, hashvalues=signature
        )
        for key in self._lsh.query(minhash):
            # the index also returns pairs below the threshold: compare signatures
            if float(np.mean(self._signatures[key] == signature)) >= self._config.near_threshold:
                return "near-duplicate"
        number = len(self._signatures)
        self._signatures[number] = signature
        self._lsh.insert(number, minhash)
        return None
