"""Packing: pieces of documents into rows of `context` tokens, window by window, nothing dropped, little left empty.

Decision: best-fit decreasing within a window (measured fill for first-fit decreasing: 99.4 % for 256 documents at
1024, 99.2 % for 1,000 at 8192; performance.md section 5). Every piece has its own bos and eos (order.py cuts them).
Rows are columns of numbers, not objects: an object per piece cost more than everything else of the loader together.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.order import Ints, Windows
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

    def divided(self) -> tuple[int, int]:
        """Documents that were cut and begin here, and the stored tokens here of documents that were cut."""
        pieces = (self.start > 0) | ~self.last
        stored = self.stop - self.start + (self.start == 0) + self.last
        return int((pieces & (self.start == 0)).sum()), int(stored[pieces].sum())


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


def pack(lengths: Ints, context: int) -> tuple[Ints, Ints]:
    """Best-fit decreasing: pieces in the order in which they are placed, and the row of each; no row exceeds `context`."""
    order = np.argsort(-lengths, kind="stable")
    many = len(lengths) + 1
    smallest = int(lengths.min(initial=context)) * many
    count = 0
    home: list[int] = []
    space: list[int] = []  # room left × many + row, sorted: the least room that is enough, then the first row
    for need in (lengths[order] * many).tolist():
        at = bisect_left(space, need)
        if at == len(space):
            left = context * many + count - need
            home.append(count)
            count += 1
        else:
            left = space.pop(at) - need
            home.append(left % many)
        if left >= smallest:  # otherwise nothing will ever fit, and the list stays short
            insort(space, left)
    return order, np.array(home, dtype=np.int64)


def window_rows(windows: Windows, number: int, context: int, key: tuple[object, ...]) -> Rows:
    """Rows of one window, in random order (keyed by `key`, which names seed and phase)."""
    folder, pieces = windows.pieces(number)
    order = rng.permutation(len(folder), *key, "pieces", number)
    placed, home = pack((pieces.stop - pieces.start + 2)[order], context)
    sizes = np.bincount(home)
    chosen = rng.permutation(len(sizes), *key, "rows", number)
    rank = np.empty_like(chosen)
    rank[chosen] = np.arange(len(chosen))
    at = order[placed[np.argsort(rank[home], kind="stable")]]
    columns = (folder[at], pieces.document[at], pieces.start[at], pieces.stop[at], pieces.last[at])
    return Rows(*columns, np.cumsum(sizes[chosen], dtype=np.int64), windows.folders)


def materialise(rows: Rows, split: Split) -> tuple[NDArray[np.int64], list[int]]:
    """Token ids of the rows' pieces one after the other (T,) and the length of each piece."""
    lengths = rows.lengths()
    if not len(lengths):
        return np.empty(0, dtype=np.int64), []
    # A piece is read with one token before and one after it, which its bos and eos take the place of.
    first = split.offsets[rows.document] + rows.start
    pieces = [split.flat[a:b] for a, b in zip(first.tolist(), (first + lengths).tolist(), strict=True)]
    ids_T = np.concatenate(pieces).astype(np.int64)
    stops = np.cumsum(lengths)
    ids_T[stops - lengths], ids_T[stops - 1] = BOS, EOS
    return ids_T, lengths.tolist()
