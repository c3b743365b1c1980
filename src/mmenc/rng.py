"""Random numbers as functions of names: `raw(n, seed, "mask", phase, step)` gives the same bits on every machine.

Only a bit generator's raw stream is stable across numpy versions, not the methods of `Generator`, so everything that
must be repeatable is derived from Philox's raw 64-bit words, keyed by a sha256 of the names.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray


def _key(names: tuple[object, ...]) -> bytes:
    return hashlib.sha256(json.dumps(names).encode()).digest()


def raw(n: int, *names: object) -> NDArray[np.uint64]:
    """Return n words of 64 random bits that depend on the names only."""
    key = np.frombuffer(_key(names)[:16], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key).random_raw(n), dtype=np.uint64)


def permutation(n: int, *names: object) -> NDArray[np.int64]:
    """Return a random order of 0..n-1."""
    return np.argsort(raw(n, *names), kind="stable").astype(np.int64)


def uniform(n: int, *names: object) -> NDArray[np.float64]:
    """Return n numbers in [0, 1)."""
    return (raw(n, *names) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed(*names: object) -> int:
    """Return one 63-bit seed for a torch.Generator."""
    return int.from_bytes(_key(names)[16:24], "big") >> 1
