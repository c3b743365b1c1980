"""Global batches of a phase: row r is a look-up through windows and their stored row counts, never a replay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from mmenc.artifact import Json
from mmenc.data.order import Stream
from mmenc.data.packing import Row, window_rows
from mmenc.data.tokens import Split
from mmenc.sections import Phase

WINDOW_ROWS = 256
"""Rows' worth of tokens per window: enough documents for a fill of 99 % (performance.md section 5)."""


def make_streams(split: Split, mixture: Json, read: Mapping[str, int], seed: int, name: str, phase: Phase) -> list[Stream]:
    """One stream per language and bucket of the plan; `read` is what the ancestors read of each folder."""
    quotas = {tag: row["tokens"] for tag, row in mixture["languages"].items()}
    for row in mixture["buckets"].values():
        quotas[row["source"]] = quotas.get(row["source"], 0) + row["tokens"]
    return [
        Stream(folder, split.lengths(folder), seed, name, phase.context, read.get(folder, 0), quota, phase.min_piece)
        for folder, quota in sorted(quotas.items())
        if quota
    ]


class Batches:
    """Rows of a whole phase, by number."""

    def __init__(self, streams: list[Stream], split: Split, phase: Phase, name: str, seed: int, counts: list[int]) -> None:
        self.streams, self.split, self.phase = streams, split, phase
        self.key = (seed, "order", name)
        self.windows = max(1, round(phase.tokens / (WINDOW_ROWS * phase.context)))
        self.window = lru_cache(maxsize=3)(self._window)
        self.counts = counts or [len(self.window(w)) for w in range(self.windows)]

    def _window(self, number: int) -> list[Row]:
        return window_rows(self.streams, self.split, number, self.windows, self.phase.context, self.key)

    @property
    def total(self) -> int:
        """Rows of the phase."""
        return sum(self.counts)

    def rows(self, first: int, count: int) -> list[Row]:
        """Rows [first, first + count) of the phase."""
        found: list[Row] = []
        start = 0
        for number, size in enumerate(self.counts):
            low, high = max(first - start, 0), min(first + count - start, size)
            if low < high:
                found += self.window(number)[low:high]
            start += size
        return found

    def size(self, first: int, wanted: int) -> int:
        """Rows of the batch that begins at `first`: a remainder of less than half a batch joins the last one."""
        left = self.total - first
        return left if left < wanted * 1.5 else wanted
