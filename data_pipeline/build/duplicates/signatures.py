"""Measures of likeness between documents: hashes, and MinHash signatures with their bands."""

import functools
import hashlib
import re
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from data_pipeline.cleaning_config import CleaningConfig

Signature = npt.NDArray[np.uint32]
# a row per document
Signatures = npt.NDArray[np.uint32]
# datasketch's name for the family of hash functions behind a signature
_SCHEME = "affine32"
_WORD = re.compile(r"\w+")
# n-grams hashed at a time: bounds the memory that a huge document needs
_BATCH = 1 << 13
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


def document_hash(text: str) -> bytes:
    """16 bytes that identify a text; they also decide its split."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def in_valid(hash_: bytes, valid_fraction: float) -> bool:
    """Whether a document is held out; the same in every corpus that contains it."""
    return int.from_bytes(hash_[:8], "little") < valid_fraction * 2.0**64


def _word_hashes(text: str) -> npt.NDArray[np.uint64]:
    # texts of documents are valid Unicode, strings of JSON may hold half of a surrogate pair
    words = (zlib.crc32(word.encode(errors="replace")) for word in _WORD.findall(text.lower()))
    return np.fromiter(words, dtype=np.uint64)


def _ngrams(words: npt.NDArray[np.uint64], length: int) -> npt.NDArray[np.uint64]:
    """A polynomial over the hashes of each `length` words, modulo 2**64."""
    ngrams = np.zeros(max(len(words) - length + 1, 0), dtype=np.uint64)
    for start in range(length):
        ngrams += words[start : start + len(ngrams)]
        ngrams *= np.uint64(6364136223846793005)
    return ngrams


def ngram_hashes(text: str, length: int) -> npt.NDArray[np.uint64]:
    """A hash of each n-gram of a text's words, without case and punctuation."""
    return _ngrams(_word_hashes(text), length)


def signature(text: str, config: CleaningConfig) -> Signature:
    """The MinHash signature of a text's word n-grams.

    Cost: about 0.5 s per MB of text.
    """
    words = _word_hashes(text)
    ngrams = _ngrams(words, min(config.near_ngram, max(len(words), 1)))
    hashes = np.unique(ngrams >> np.uint64(32))
    minhash = MinHash(num_perm=config.near_permutations, hashfunc=int, scheme=_SCHEME)
    for start in range(0, len(hashes), _BATCH):
        minhash.update_batch(hashes[start : start + _BATCH].tolist())
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


class Bands(NamedTuple):
    """Bands of a signature: `number` groups of `width` values; equal ones make a candidate pair."""

    number: int
    width: int


@functools.cache
def bands_of(threshold: float, permutations: int) -> Bands:
    """The bands with the fewest wrong candidates around a threshold, as datasketch chooses them."""
    index = MinHashLSH(threshold=threshold, num_perm=permutations)
    return Bands(index.b, index.r)


def band_keys(signatures: Signatures, bands: Bands) -> npt.NDArray[np.uint64]:
    """A hash per document and band; equal bands have equal hashes.

    Args:
        signatures: A row per document.
        bands: Their division.
    """
    keys = np.empty((len(signatures), bands.number), dtype=np.uint64)
    keys[:] = np.arange(1, bands.number + 1, dtype=np.uint64) * _FACTORS[0]
    used = signatures[:, : bands.number * bands.width]
    values = used.reshape(len(signatures), bands.number, bands.width)
    # the finalizer of splitmix64, per value
    for place in range(bands.width):
        keys ^= values[:, :, place]
        keys *= _FACTORS[1]
        keys ^= keys >> np.uint64(29)
        keys *= _FACTORS[2]
        keys ^= keys >> np.uint64(32)
    return keys


def resembling(
    first: Signatures, second: Signatures, bands: Bands, threshold: float
) -> npt.NDArray[np.bool_]:
    """Whether the documents of each pair of rows resemble each other."""
    equal = first == second
    similar = equal.mean(axis=1) >= threshold
    used = equal[similar, : bands.number * bands.width]
    shared = used.reshape(-1, bands.number, bands.width).all(axis=2).any(axis=1)
    # candidates come by hashes of bands, which may be equal by chance
    similar[similar] = shared
    return similar
