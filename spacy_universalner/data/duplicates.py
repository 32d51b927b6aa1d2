"""Texts that say the same twice: paid for twice, and in training and test at once."""

from __future__ import annotations

import re
from hashlib import blake2b
from zlib import crc32

import numpy as np

from ..ty import Passage, Reject

_WORD = re.compile(r"\w+")
_SHINGLE = 3
# Two texts with a similarity of 0.8 agree in one of 8 bands of 3 minima with probability 0.997.
_BANDS, _ROWS = 8, 3


class DuplicateFilter:
    """Recognises a text that has passed before.

    An exact duplicate has the same words, whatever their case, white space and punctuation. A
    near duplicate shares `threshold` of all its runs of three words with one earlier text
    (Jaccard similarity of the two sets): MinHash finds the candidates, which are then compared
    exactly. Time does not grow with the number of texts; memory does, by 4 KB for a
    sentence and 15 KB for 200 words.

    threshold (float | None): The similarity, in (0, 1]; None to look for exact duplicates only.
    """

    def __init__(self, threshold: float | None = 0.8) -> None:
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"Similarity of near duplicates must be in (0, 1], found {threshold}")
        self.threshold = threshold
        self._exact: dict[bytes, str] = {}
        self._similar: dict[tuple[int, bytes], tuple[str, frozenset[int]]] = {}
        rng = np.random.default_rng(0)
        shape = (_BANDS * _ROWS, 1)
        self._factors = rng.integers(2**63, size=shape, dtype=np.uint64) * 2 + 1
        self._offsets = rng.integers(2**63, size=shape, dtype=np.uint64)

    def __call__(self, passage: Passage) -> Reject | None:
        """Judge the next text, and remember it if it is new.

        passage (Passage): The text.
        RETURNS (Reject | None): Why it is not needed, with the id of the earlier one; None if it
            is new.
        """
        words = _WORD.findall(passage.text.casefold()) or [passage.text]
        key = blake2b(" ".join(words).encode("utf8", "surrogatepass"), digest_size=16).digest()
        if key in self._exact:
            return Reject(self._exact[key], "duplicate")
        self._exact[key] = passage.id
        if self.threshold is None:
            return None
        runs = (" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1)))
        shingles = frozenset(crc32(run.encode("utf8", "surrogatepass")) for run in runs)
        bands = self._bands(shingles)
        for band in bands:
            id, others = self._similar.get(band, ("", frozenset()))
            if len(shingles & others) >= self.threshold * len(shingles | others):
                return Reject(id, "near duplicate")
        for band in bands:
            self._similar.setdefault(band, (passage.id, shingles))
        return None

    def _bands(self, shingles: frozenset[int]) -> list[tuple[int, bytes]]:
        hashes = self._factors * np.fromiter(shingles, np.uint64) + self._offsets
        minima = (hashes >> np.uint64(32)).min(axis=1).reshape(_BANDS, _ROWS)
        return [(i, band.tobytes()) for i, band in enumerate(minima)]
