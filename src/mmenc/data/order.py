"""The order of the data: which documents a phase reads, window by window, without any state but numbers.

Each folder is an endless stream: its documents in a random order per epoch, epoch after epoch (keyed by seed, folder
and epoch only, so that the order goes on from phase to phase and no document comes twice before its epoch is over). A
phase reads Q tokens of it, from where the parent phase stopped. The phase is cut into W windows of equal planned mix;
a document belongs to the window in which its point `start + r × length` falls, with one random r per phase and folder:
unbiased also for a language whose whole quota is one document. Window w is a look-up, never a replay.

Legend: Q quota in tokens, o tokens that ancestors have read, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmenc import rng


@dataclass(frozen=True)
class Epoch:
    """One pass over a folder: documents in reading order and where each starts in the epoch."""

    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


class Stream:
    """The endless stream of one folder, as one phase reads it."""

    def __init__(self, folder: str, lengths: NDArray[np.int64], seed: int, phase: str, offset: int, quota: int) -> None:
        self.folder, self.seed, self.offset, self.quota = folder, seed, offset, quota
        self.lengths = lengths
        self.size = int(lengths.sum())
        self.r = float(rng.uniform(1, seed, "point", phase, folder)[0])
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, number: int) -> Epoch:
        order = rng.permutation(len(self.lengths), self.seed, "epoch", self.folder, number)
        lengths = self.lengths[order]
        return Epoch(order, np.cumsum(lengths) - lengths, lengths)

    def _first(self, position: float) -> tuple[int, int]:
        """(epoch, index) of the first document whose point is at or after a stream position."""
        number = int(position // self.size)
        epoch = self.epoch(number)
        index = int(np.searchsorted(epoch.starts + self.r * epoch.lengths, position - number * self.size, side="left"))
        return (number, index) if index < len(epoch.documents) else (number + 1, 0)

    def documents(self, low: float, high: float) -> NDArray[np.int64]:
        """Documents (indices within the folder) whose points lie in [low, high) of the phase's quota."""
        if self.quota == 0:
            return np.empty(0, dtype=np.int64)
        (e0, i0), (e1, i1) = self._first(self.offset + low), self._first(self.offset + high)
        parts = [self.epoch(e).documents[(i0 if e == e0 else 0) : (i1 if e == e1 else None)] for e in range(e0, e1 + 1)]
        return np.concatenate(parts)

    def window(self, number: int, windows: int) -> NDArray[np.int64]:
        """Documents of window `number` of `windows`."""
        return self.documents(self.quota * number / windows, self.quota * (number + 1) / windows)

    def consumed(self) -> int:
        """Tokens that the whole phase reads: whole documents, so the next phase starts at a document's start."""
        if self.quota == 0:
            return 0
        number, index = self._first(self.offset + self.quota)
        return number * self.size + int(self.epoch(number).starts[index]) - self.offset
