"""Near-duplicates by MinHash: texts that share most of their word triples.

Source: Broder 1997 (resemblance of documents); Lee et al. 2022 (arXiv 2107.06499) for training
sets. The hashing and the index are datasketch's.
"""

from __future__ import annotations

import re

from datasketch import MinHash, MinHashLSH

NUM_HASHES = 128
"""Hashes of a signature: the estimate of the Jaccard index is off by 0.04 or so."""

SHINGLE_WORDS = 3


def shingles(text: str) -> set[str]:
    """The runs of three words of a text, case and punctuation aside; all of it if it is shorter."""
    words = re.findall(r"\w+", text.lower())
    runs = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in runs}


class NearDuplicates:
    """Remembers texts; the first of each kind is new, whatever comes later and is like it is not.

    Args:
        threshold: Jaccard index of word triples, in [0, 1], from which two texts are alike.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=NUM_HASHES)
        self._signatures: dict[str, MinHash] = {}

    def add(self, name: str, text: str) -> str | None:
        """Remember a text under a name, unless it is like one before: then that one's name."""
        signature = _signature(text)
        other = self._like(signature)
        if other is None:
            self._index.insert(name, signature)
            self._signatures[name] = signature
        return other

    def find(self, text: str) -> str | None:
        """The name of a text before that this one is like, or None; it is not remembered."""
        return self._like(_signature(text))

    def _like(self, signature: MinHash) -> str | None:
        # The index finds candidates with some luck on both sides; the estimate decides.
        for other in sorted(self._index.query(signature)):
            if signature.jaccard(self._signatures[other]) >= self._threshold:
                return str(other)
        return None


def _signature(text: str) -> MinHash:
    signature = MinHash(num_perm=NUM_HASHES)
    signature.update_batch([shingle.encode() for shingle in sorted(shingles(text))])
    return signature
