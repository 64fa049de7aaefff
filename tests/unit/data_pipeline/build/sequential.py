"""The rule of duplicates as it reads: one document after another, everything in memory."""

import numpy as np
from datasketch import MinHash, MinHashLSH

from data_pipeline.build.duplicates.signatures import Signature
from data_pipeline.cleaning_config import CleaningConfig


class SequentialFinder:
    """Index of the documents kept so far: what joins must agree with."""

    def __init__(self, config: CleaningConfig):
        self._config = config
        self._hashes: set[bytes] = set()
        self._signatures: dict[int, Signature] = {}
        self._lsh = MinHashLSH(threshold=config.near_threshold, num_perm=config.near_permutations)

    def keep(self, hash_: bytes, signature: Signature) -> None:
        """Add a document of an earlier build."""
        self._hashes.add(hash_)
        self._insert(signature)

    def _minhash(self, signature: Signature) -> MinHash:
        permutations = self._config.near_permutations
        return MinHash(num_perm=permutations, scheme="affine32", hashvalues=signature)

    def _insert(self, signature: Signature) -> None:
        number = len(self._signatures)
        self._signatures[number] = signature
        self._lsh.insert(number, self._minhash(signature))

    def reason_to_drop(self, hash_: bytes, signature: Signature | None) -> str | None:
        """The kind of duplicate that a document is; None if it is new, and then it is added."""
        if self._config.exact_duplicates:
            if hash_ in self._hashes:
                return "exact duplicate"
            self._hashes.add(hash_)
        if signature is None:
            return None
        for key in self._lsh.query(self._minhash(signature)):
            # the index also returns pairs below the threshold: compare signatures
            if float(np.mean(self._signatures[key] == signature)) >= self._config.near_threshold:
                return "near-duplicate"
        self._insert(signature)
        return None
