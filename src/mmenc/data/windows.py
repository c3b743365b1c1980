"""Hashes of character windows: the one tool under repetition, near duplicates, contamination and language statistics.

Decision: characters, not words, so that text without spaces is treated like any other; all windows of a text at once in
numpy (a polynomial hash modulo 2^64 from prefix sums, 40 MB/s on a core) instead of a Python loop over slices. How many
characters a window has follows the script's density (scripts.py), so that it holds about as much in every language.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)


def points(text: str) -> NDArray[np.uint32]:
    """Code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32, copy=False)


def mix(values: U64) -> U64:
    """Spread the bits of 64-bit values (the finaliser of MurmurHash3, once)."""
    values = (values ^ (values >> _HALF)) * _MIX
    return values ^ (values >> _HALF)


@cache
def _powers(base: int, bits: int) -> U64:
    """The first 2^bits powers of `base` modulo 2^64."""
    found = np.ones(1, dtype=np.uint64)
    for _ in range(bits):
        step = np.uint64(pow(base, len(found), 2**64))
        found = np.concatenate([found, found * step])
    return found


def windows(codes: NDArray[np.uint32], size: int) -> U64:
    """Return the hash of every window of `size` characters; none if the text is shorter."""
    count = len(codes) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    bits = max(12, len(codes).bit_length())
    terms = mix(codes.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, bits)[: len(codes)]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return mix((sums[size:] - sums[:count]) * _powers(_INVERSE, bits)[:count])
