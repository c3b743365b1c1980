"""The order of the data: which pieces of documents a phase reads, window by window, without any state but numbers.

Each folder is an endless stream: its documents in a random order per epoch, epoch after epoch (keyed by seed, folder
and epoch only, so that the order goes on from phase to phase and nothing comes twice before its epoch is over). A phase
reads Q tokens of it, from where the parent phase stopped, in pieces of at most `context` tokens. The phase is cut into W
windows of equal planned mix; a piece belongs to the window in which its point `start + r × length` falls, with one
random r per phase and folder: unbiased also for a language whose whole quota is one piece. Window w is a look-up.

Units: tokens of stored documents (bos, content, eos); positions count them from the start of the first epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmenc import rng

TAIL = 8
"""A rest shorter than 1/TAIL of a row is not left alone, unless the recipe's `min_piece` says otherwise."""
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Content tokens [start, stop) of documents, in reading order (P pieces)."""

    document: Ints
    start: Ints
    stop: Ints
    last: NDArray[np.bool_]
    """Whether the piece ends its document."""

    def stored(self) -> Ints:
        """Stored tokens that each piece stands for: its content, the bos of a first and the eos of a last piece."""
        return np.asarray(self.stop - self.start + (self.start == 0) + self.last, dtype=np.int64)

    def take(self, low: int, high: int | None) -> Pieces:
        """Pieces [low, high)."""
        at = slice(low, high)
        return Pieces(self.document[at], self.start[at], self.stop[at], self.last[at])


def join(parts: list[Pieces]) -> Pieces:
    """Put lists of pieces one after the other."""
    columns = zip(*((p.document, p.start, p.stop, p.last) for p in parts), strict=True)
    return Pieces(*(np.concatenate(c) for c in columns))


def cut(document: Ints, lengths: Ints, context: int, skip: Ints | None = None, least: int = 0) -> Pieces:
    """Cut stored documents into rows of `context` (bos and eos in each) and a rest; `skip` content tokens stand apart.

    A rest below `least` tokens (0: an eighth of a row) shares evenly with the piece before it.
    Whole rows and a rest pack better than equal pieces (fill at 128 was 98 against 89 %: two equal pieces rarely fit).
    """
    room = context - 2
    begin = np.zeros_like(lengths) if skip is None else skip
    content = lengths - 2
    count = np.maximum(1, -(-(content - begin) // room))
    total = int(count.sum())
    first = np.cumsum(count) - count
    owner = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(total) - first[owner]
    start = begin[owner] + number * room
    stop = np.minimum(start + room, content[owner])
    ends = first + count - 1
    rest = stop[ends] - start[ends]
    short = (count > 1) & (rest < (least or room // TAIL))
    move = (room - rest[short]) // 2
    stop[ends[short] - 1] -= move
    start[ends[short]] -= move
    last = np.zeros(total, dtype=np.bool_)
    last[ends] = True
    return Pieces(document[owner], start, stop, last)


class Stream:
    """The endless stream of one folder, as one phase reads it."""

    def __init__(
        self, folder: str, lengths: Ints, seed: int, phase: str, context: int, offset: int, quota: int, least: int = 0
    ) -> None:
        self.folder, self.seed, self.context, self.offset, self.quota = folder, seed, context, offset, quota
        self.least = least
        self.lengths = lengths
        self.size = int(lengths.sum())
        self.r = float(rng.uniform(1, seed, "point", phase, folder)[0])
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _cut(self, document: Ints, lengths: Ints, skip: Ints | None = None) -> Pieces:
        return cut(document, lengths, self.context, skip, self.least)

    def _epoch(self, number: int) -> tuple[Pieces, Ints, NDArray[np.float64]]:
        """Pieces of one epoch, where each starts in it, and its point; what an ancestor read of a document is apart."""
        order = rng.permutation(len(self.lengths), self.seed, "epoch", self.folder, number)
        lengths = self.lengths[order]
        at = self.offset - number * self.size
        starts = np.cumsum(lengths) - lengths
        begun = (starts < at) & (at < starts + lengths)
        parts = [self._cut(order, lengths)]
        if begun.any():
            i = int(np.flatnonzero(begun)[0])
            read = np.array([at - starts[i] - 1])
            own, size = order[i : i + 1], lengths[i : i + 1]
            before = Pieces(own, np.zeros(1, dtype=np.int64), read, np.zeros(1, dtype=np.bool_))
            parts = [
                self._cut(order[:i], lengths[:i]),
                before,
                self._cut(own, size, read),
                self._cut(order[i + 1 :], lengths[i + 1 :]),
            ]
        pieces = join(parts)
        stored = pieces.stored()
        starts = np.cumsum(stored) - stored
        return pieces, starts, starts + self.r * stored

    def _first(self, position: float) -> tuple[int, int]:
        """(epoch, index) of the first piece whose point is at or after a stream position."""
        number = int(position // self.size)
        points = self.epoch(number)[2]
        index = int(np.searchsorted(points, position - number * self.size, side="left"))
        return (number, index) if index < len(points) else (number + 1, 0)

    def pieces(self, low: float, high: float) -> Pieces:
        """Pieces (documents by index within the folder) whose points lie in [low, high) of the phase's quota."""
        (e0, i0), (e1, i1) = self._first(self.offset + low), self._first(self.offset + high)
        parts = [self.epoch(e)[0].take(i0 if e == e0 else 0, i1 if e == e1 else None) for e in range(e0, e1 + 1)]
        return parts[0] if len(parts) == 1 else join(parts)

    def window(self, number: int, windows: int) -> Pieces:
        """Pieces of window `number` of `windows`."""
        return self.pieces(self.quota * number / windows, self.quota * (number + 1) / windows)

    def consumed(self) -> int:
        """Tokens that the whole phase reads."""
        number, index = self._first(self.offset + self.quota)
        return number * self.size + int(self.epoch(number)[1][index]) - self.offset
