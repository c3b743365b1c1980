"""`frequent`, a stage of cleaning: lines that so many documents of a language share that they are boilerplate.

Decision: `read` leaves pairs of line and document, 16 bytes each, where copies of one document are one document: else thirty
copies of a good text would lose all their lines before anybody knows that they are copies. Pairs are sorted in ranges of
`LINE_RANGE`; a line that has enough documents is not counted on, so the most frequent ones cost no memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmenc.artifact import Json
from mmenc.data.windows import U64

LINE_RANGE = 8_000_000


def frequent(folder: Path, languages: dict[str, tuple[list[Path], int]], share: float, least: int) -> Json:
    """Write per language the hashes of lines that at least `share` of the documents, and `least` different ones, have."""
    found: Json = {}
    for language, (tables, documents) in languages.items():
        hashes = _frequent(tables, max(least, share * documents))
        np.save(folder / f"{language}.npy", hashes)
        found[language] = len(hashes)
    return found


def _frequent(tables: list[Path], least: float) -> U64:
    """Hashes that `least` different documents have; `tables`: of a shard hashes, sorted, and below each its document."""
    total = sum(np.load(p, mmap_mode="r").shape[1] for p in tables)
    ranges = max(1, -(-total // LINE_RANGE))
    kept: list[U64] = []
    for i in range(ranges):
        low, high = np.uint64((i << 64) // ranges), np.uint64(((i + 1 << 64) // ranges) - 1)
        held, waiting, size = np.empty((0, 2), np.uint64), list[U64](), 0
        found = np.empty(0, np.uint64)
        for at, path in enumerate(tables, 1):
            table = np.load(path, mmap_mode="r")  # mapped for one turn: there may be more shards than open files
            first, last = np.searchsorted(table[0], low), np.searchsorted(table[0], high, side="right")
            waiting.append(np.array(table[:, first:last]).T)
            size += len(waiting[-1])
            if size > LINE_RANGE or at == len(tables):
                held, enough = _counted(np.concatenate([held, *waiting]), found, least)
                found, waiting, size = np.union1d(found, enough), [], 0
        kept.append(found)
    return np.concatenate(kept)


def _counted(pairs: U64, found: U64, least: float) -> tuple[U64, U64]:
    """The different pairs whose hash has too few documents yet, and the hashes that have enough (`found`: had before)."""
    pairs = pairs[~np.isin(pairs[:, 0], found)]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    pairs = pairs[np.concatenate([np.ones(min(1, len(pairs)), bool), (pairs[1:] != pairs[:-1]).any(1)])]
    hashes, times = np.unique(pairs[:, 0], return_counts=True)
    return pairs[np.repeat(times < least, times)], hashes[times >= least]
