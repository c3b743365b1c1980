"""Unique ids at any number of documents: 8-byte hashes on disk, in sorted runs; equal hashes are looked up.

Decision: no set of strings grows with the data. Each shard leaves one sorted run; runs of a language are compared range by
range, so that memory stays at `AT_ONCE` hashes (0.4 GB) whether a language has a thousand documents or ten billion. Two
different ids share a hash once in 10^10 pairs of languages of a billion documents: the shards of the few equal ones are read
again and decide.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmenc.data.shards import read_documents

AT_ONCE = 25_000_000
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Run:
    """The sorted hashes of one shard's ids: `count` of them from `start` in a file."""

    file: Path
    start: int
    count: int
    shard: Path

    def hashes(self) -> Hashes:
        """Mapped, not read."""
        return np.memmap(self.file, np.uint64, "r", offset=8 * self.start, shape=(self.count,))


def hashed(name: str) -> int:
    """The 8-byte hash of an id."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def run_bytes(hashes: array[int]) -> bytes:
    """A shard's hashes as a sorted run."""
    return np.sort(np.frombuffer(hashes, np.uint64)).tobytes() if hashes else b""


def first_twice(runs: Sequence[Run]) -> tuple[str, Path] | None:
    """An id that two documents have, and the shard of the second; None if all are unique."""
    for low, high in _ranges(sum(r.count for r in runs)):
        parts = []
        for run in runs:
            hashes = run.hashes()
            # Ends are looked up one by one: 2**64 itself is no uint64.
            first = int(np.searchsorted(hashes, np.uint64(low)))
            last = len(hashes) if high >= 2**64 else int(np.searchsorted(hashes, np.uint64(high)))
            parts.append(np.array(hashes[first:last]))
        together = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
        equal = np.unique(together[1:][together[1:] == together[:-1]])
        if len(equal) and (found := _look_up(runs, equal)):
            return found
    return None


def _ranges(total: int) -> Iterator[tuple[int, int]]:
    steps = -(-total // AT_ONCE) or 1
    for n in range(steps):
        yield n * 2**64 // steps, (n + 1) * 2**64 // steps


def _look_up(runs: Iterable[Run], equal: Hashes) -> tuple[str, Path] | None:
    wanted = {int(h) for h in equal}
    seen: set[str] = set()
    for run in runs:
        if not np.isin(run.hashes(), equal).any():
            continue
        for document in read_documents(run.shard):
            if hashed(document["id"]) in wanted:
                if document["id"] in seen:
                    return document["id"], run.shard
                seen.add(document["id"])
    return None
