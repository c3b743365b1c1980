"""The order of the data: which pieces of documents a phase reads, window by window, without any state but numbers.

Each folder is an endless stream: its documents in a random order per epoch, epoch after epoch (keyed by seed, folder
and epoch only, so that the order goes on from phase to phase and nothing comes twice before its epoch is over). A phase
reads Q tokens of it, from where the parent phase stopped, in pieces of at most `context` tokens. The phase is cut into W
windows of equal planned mix; a piece belongs to the window in which its point `start + r × length` falls, with one
random r per phase and folder: unbiased also for a language whose whole quota is one piece. Window w is a look-up.

Units: tokens of stored documents (bos, content, eos); positions count them from the start of the first epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmenc import rng

TAIL = 8
"""A rest shorter than 1/TAIL of a row is not left alone, unless the recipe's `min_piece` says otherwise."""
BLOCK = 64
"""Windows that are looked up together: 17 M tokens at 1024; a resumed phase looks up one block, in 0.1 s."""
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
        return self.at(slice(low, high))

    def at(self, at: slice | Ints) -> Pieces:
        """Some of the pieces."""
        return Pieces(self.document[at], self.start[at], self.stop[at], self.last[at])


def join(parts: list[Pieces]) -> Pieces:
    """Put lists of pieces one after the other."""
    if len(parts) == 1:
        return parts[0]
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

    def _between(self, positions: list[float]) -> tuple[Pieces, Ints]:
        """Pieces whose points lie between the first and the last of rising positions, and how many between each two."""
        found: list[Pieces] = []
        marks: list[int] = []
        before = 0
        for number, inside in self._epochs(positions):
            pieces, _, points = self.epoch(number)
            marks += (before + points.searchsorted(np.array(inside))).tolist()
            found.append(pieces)
            before += len(points)
        return join(found).take(marks[0], marks[-1]), np.diff(marks)

    def _epochs(self, positions: list[float]) -> Iterator[tuple[int, list[float]]]:
        """Every epoch from the first to the last position, with the positions that lie in it, from its start."""
        at, number = 0, int(positions[0] // self.size)
        while at < len(positions):
            inside = []
            while at < len(positions) and int(positions[at] // self.size) == number:
                inside.append(positions[at] - number * self.size)
                at += 1
            yield number, inside
            number += 1

    def windows(self, low: int, high: int, of: int) -> tuple[Pieces, Ints]:
        """Pieces (documents by index within the folder) of windows [low, high) of `of`, and how many each window has."""
        return self._between([self.offset + self.quota * number / of for number in range(low, high + 1)])

    def consumed(self) -> int:
        """Tokens that the whole phase reads."""
        ((number, inside),) = self._epochs([self.offset + self.quota])
        _, starts, points = self.epoch(number)
        index = int(points.searchsorted(inside[0]))
        return number * self.size + (int(starts[index]) if index < len(starts) else self.size) - self.offset


class Windows:
    """The pieces of all streams of a phase, window by window.

    Decision: a block of windows is looked up at a time, one search per stream and epoch, and sorted by window. Asking each of
    464 streams for every window took 27 of 50 ns per token (benchmarks/README.md).
    """

    def __init__(self, streams: list[Stream], firsts: list[int], count: int) -> None:
        """`firsts`: each stream's first document in the split."""
        self.streams, self.firsts, self.count = streams, np.array(firsts, dtype=np.int64), count
        self.folders = tuple(s.folder for s in streams)
        self.block = lru_cache(maxsize=2)(self._block)

    def _block(self, number: int) -> tuple[Ints, Pieces, list[int]]:
        """Stream and piece of all pieces of a block in the order of its windows, and where each window begins."""
        low, high = number * BLOCK, min((number + 1) * BLOCK, self.count)
        found = [stream.windows(low, high, self.count) for stream in self.streams]
        each = np.stack([counts for _, counts in found])  # streams x windows
        stream = np.repeat(np.arange(len(found)), each.sum(1))
        window = np.repeat(np.tile(np.arange(high - low), len(found)), each.ravel())
        order = np.argsort(window, kind="stable")
        pieces, stream = join([p for p, _ in found]).at(order), stream[order]
        located = Pieces(pieces.document + self.firsts[stream], pieces.start, pieces.stop, pieces.last)
        return stream, located, [0, *np.cumsum(each.sum(0)).tolist()]

    def pieces(self, number: int) -> tuple[Ints, Pieces]:
        """Stream and piece (documents by index within the split) of one window, streams in their order."""
        stream, pieces, begins = self.block(number // BLOCK)
        low, high = begins[number % BLOCK], begins[number % BLOCK + 1]
        return stream[low:high], pieces.take(low, high)
