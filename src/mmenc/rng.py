"""Random numbers as functions of names: `raw(n, seed, "mask", phase, step)` gives the same bits on every machine.

Only a bit generator's raw stream is stable across numpy versions, not the methods of `Generator`, so everything that
must be repeatable is derived from Philox's raw 64-bit words, keyed by a sha256 of the names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BLOCK = 8192
"""Words drawn at a time by `uniform`: 64 kB stay in the cache and below what malloc gives back to the system each time."""
SHIFT = np.uint64(11)


def _key(names: tuple[object, ...]) -> bytes:
    return hashlib.sha256(json.dumps(names).encode()).digest()


def _philox(names: tuple[object, ...]) -> np.random.Philox:
    return np.random.Philox(key=np.frombuffer(_key(names)[:16], dtype=np.uint64))


def raw(n: int, *names: object) -> NDArray[np.uint64]:
    """Return n words of 64 random bits that depend on the names only."""
    return np.asarray(_philox(names).random_raw(n), dtype=np.uint64)


def stream(*names: object) -> Callable[[int], NDArray[np.uint64]]:
    """Return a function that gives the next n words of the same sequence as `raw`, for what does not fit into memory."""
    bits = np.random.Philox(key=np.frombuffer(_key(names)[:16], dtype=np.uint64))
    return lambda n: np.asarray(bits.random_raw(n), dtype=np.uint64)


def permutation(n: int, *names: object) -> NDArray[np.int64]:
    """Return a random order of 0..n-1."""
    return np.argsort(raw(n, *names), kind="stable").astype(np.int64)


def uniform(n: int, *names: object) -> NDArray[np.float64]:
    """Return n numbers in [0, 1): the raw words, shifted and scaled block by block."""
    bits = _philox(names)
    out = np.empty(n)
    for low in range(0, n, BLOCK):
        words = bits.random_raw(min(BLOCK, n - low))
        words >>= SHIFT
        np.multiply(words, 2.0**-53, out=out[low : low + BLOCK])
    return out


def seed(*names: object) -> int:
    """Return one 63-bit seed for a torch.Generator."""
    return int.from_bytes(_key(names)[16:24], "big") >> 1
