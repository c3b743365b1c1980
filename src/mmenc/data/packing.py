"""Packing: pieces of documents into rows of `context` tokens, window by window, nothing dropped, little left empty.

Decision: best-fit decreasing within a window (measured fill for first-fit decreasing: 99.4 % for 256 documents at
1024, 99.2 % for 1,000 at 8192; performance.md section 5). Every piece has its own bos and eos (order.py cuts them).
Rows are columns of numbers, not objects: an object per piece cost more than everything else of the loader together.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.order import Ints, Stream
from mmenc.data.tokens import BOS, EOS, Split


@dataclass(frozen=True)
class Rows:
    """Pieces (P) in the order of their rows (R): content tokens [start, stop) of documents, without their bos and eos."""

    folder: Ints
    """Index into `folders`, (P,)."""
    document: Ints
    """Index within the split, (P,)."""
    start: Ints
    stop: Ints
    last: NDArray[np.bool_]
    """Whether the piece ends its document, (P,)."""
    ends: Ints
    """Pieces up to and with each row, (R,)."""
    folders: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, at: slice) -> Rows:
        """Rows [low, high)."""
        low, high, _ = at.indices(len(self))
        first = int(self.ends[low - 1]) if low else 0
        p = slice(first, int(self.ends[high - 1]) if high > low else first)
        columns = (self.folder[p], self.document[p], self.start[p], self.stop[p], self.last[p])
        return Rows(*columns, self.ends[low:high] - first, self.folders)

    def lengths(self) -> Ints:
        """Tokens of each piece in its row: content, bos, eos (P,)."""
        return self.stop - self.start + 2

    def stored(self) -> dict[str, int]:
        """Tokens of stored documents that the pieces stand for, by folder; over all pieces they add up to the documents."""
        stored = self.stop - self.start + (self.start == 0) + self.last
        sums = np.bincount(self.folder, stored, minlength=len(self.folders))
        return {self.folders[i]: int(sums[i]) for i in np.flatnonzero(sums)}


def join(parts: list[Rows]) -> Rows:
    """Rows of the same phase one after the other."""
    if len(parts) == 1:
        return parts[0]
    folder, document, start, stop = (
        np.concatenate([getattr(r, column) for r in parts]) for column in ("folder", "document", "start", "stop")
    )
    last = np.concatenate([r.last for r in parts])
    before = np.cumsum([0, *(len(r.folder) for r in parts[:-1])])
    ends = np.concatenate([r.ends + b for r, b in zip(parts, before, strict=True)])
    return Rows(folder, document, start, stop, last, ends, parts[0].folders)


def pack(lengths: list[int], context: int) -> list[list[int]]:
    """Best-fit decreasing: indices of pieces per row; no row is longer than `context`."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    rows: list[list[int]] = []
    many = len(lengths) + 1
    space: list[int] = []  # room left × many + row, sorted: the least room that is enough, then the first row
    for i in order:
        length = lengths[i]
        at = bisect_left(space, length * many)
        if at == len(space):
            rows.append([i])
            room, row = context - length, len(rows) - 1
        else:
            room, row = divmod(space.pop(at), many)
            rows[row].append(i)
            room -= length
        if room > 0:
            insort(space, room * many + row)
    return rows


def window_rows(streams: list[Stream], split: Split, number: int, windows: int, context: int, key: tuple[object, ...]) -> Rows:
    """Rows of one window, in random order (keyed by `key`, which names seed and phase)."""
    folders = tuple(s.folder for s in streams)
    found = [stream.window(number, windows) for stream in streams]
    counts = [len(f.document) for f in found]
    order = rng.permutation(sum(counts), *key, "pieces", number)
    folder = np.repeat(np.arange(len(streams)), counts)[order]
    document = np.concatenate([f.document + split.ranges[name][0] for f, name in zip(found, folders, strict=True)])[order]
    start, stop, last = (np.concatenate([getattr(f, column) for f in found])[order] for column in ("start", "stop", "last"))
    rows = pack((stop - start + 2).tolist(), context)
    chosen = [rows[r] for r in rng.permutation(len(rows), *key, "rows", number)]
    at = np.fromiter(chain.from_iterable(chosen), dtype=np.int64, count=len(order))
    ends = np.cumsum([len(row) for row in chosen], dtype=np.int64)
    return Rows(folder[at], document[at], start[at], stop[at], last[at], ends, folders)


def materialise(rows: Rows, split: Split) -> tuple[NDArray[np.int64], list[int]]:
    """Token ids of the rows' pieces one after the other (T,) and the length of each piece."""
    lengths = rows.lengths()
    stops = np.cumsum(lengths)
    ids_T = np.empty(int(stops[-1]) if len(stops) else 0, dtype=np.int64)
    inside_T = np.ones(len(ids_T), dtype=np.bool_)
    ids_T[stops - lengths], ids_T[stops - 1] = BOS, EOS
    inside_T[stops - lengths] = inside_T[stops - 1] = False
    first = split.offsets[rows.document] + 1 + rows.start
    pieces = [split.flat[a:b] for a, b in zip(first.tolist(), (first + rows.stop - rows.start).tolist(), strict=True)]
    if pieces:
        ids_T[inside_T] = np.concatenate(pieces)
    return ids_T, lengths.tolist()
