"""Near-duplicates by MinHash: texts that share most of their word triples.

Source: Broder 1997 (resemblance of documents); Lee et al. 2022 (arXiv 2107.06499) for training
sets. The hashing and the shape of the index are datasketch's; its own index would take 5 KiB of
memory for each text, so signatures and bands stand on disk.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from mmcb.record_index import temporary_database

Signature = NDArray[np.uint32]
"""(NUM_HASHES,): the least hash of a text's word triples under each of as many permutations."""

NUM_HASHES = 128
"""Hashes of a signature: the estimate of the Jaccard index is off by 0.04 or so."""

SHINGLE_WORDS = 3

_STRICTEST = 0.98
"""Threshold of the index above which datasketch makes no bands; the estimate decides anyway."""

_TABLES = """
CREATE TABLE text (number INTEGER PRIMARY KEY, name TEXT, signature BLOB);
CREATE TABLE band (digest INTEGER, number INTEGER, PRIMARY KEY (digest, number)) WITHOUT ROWID;
"""


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
        self._bands = MinHashLSH(
            threshold=min(threshold, _STRICTEST), num_perm=NUM_HASHES
        ).hashranges
        self._database = temporary_database()
        self._database.executescript(_TABLES)

    def add(self, name: str, text: str) -> str | None:
        """Remember a text under a name, unless it is like one before: then that one's name."""
        signature = _signature(text)
        other = self._like(signature)
        if other is None:
            row = self._database.execute(
                "INSERT INTO text (name, signature) VALUES (?, ?)", (name, signature.tobytes())
            )
            self._database.executemany(
                "INSERT OR IGNORE INTO band VALUES (?, ?)",
                ((digest, row.lastrowid) for digest in self._digests(signature)),
            )
        return other

    def find(self, text: str) -> str | None:
        """The name of a text before that this one is like, or None; it is not remembered."""
        return self._like(_signature(text))

    def _like(self, signature: Signature) -> str | None:
        digests = self._digests(signature)
        candidates = self._database.execute(
            "SELECT name, signature FROM text WHERE number IN (SELECT number FROM band"
            f" WHERE digest IN ({', '.join('?' * len(digests))})) ORDER BY name",
            digests,
        )
        # The index finds candidates with some luck on both sides; the estimate decides.
        for name, other in candidates:
            same = np.count_nonzero(signature == np.frombuffer(other, signature.dtype))
            if same / NUM_HASHES >= self._threshold:
                return str(name)
        return None

    def _digests(self, signature: Signature) -> list[int]:
        """64 bits for each band and its place: texts that share one are candidates."""
        digests = []
        for start, end in self._bands:
            band = hashlib.blake2b(
                signature[start:end].tobytes(), digest_size=8, salt=b"%d" % start
            )
            digests.append(int.from_bytes(band.digest(), "big", signed=True))
        return digests


def _signature(text: str) -> Signature:
    signature = MinHash(num_perm=NUM_HASHES)
    signature.update_batch([shingle.encode() for shingle in sorted(shingles(text))])
    hashes: Signature = signature.hashvalues
    return hashes
