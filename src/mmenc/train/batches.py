"""Global batches of a phase: where one ends, (window, row), is all that the next one needs; nothing is ever replayed.

Decision: windows are packed when they are reached, so a phase of trillions of tokens starts at once and resumes by a
look-up. Only near the end is it known how many rows are left: a remainder of less than half a batch joins the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from mmenc.artifact import Json
from mmenc.data.order import Stream, Windows
from mmenc.data.packing import Rows, join, window_rows
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


@dataclass(frozen=True)
class Place:
    """The next row to be read: its window, and its number in it; it may lie at the end of a window."""

    window: int = 0
    row: int = 0


class Batches:
    """Batches of a whole phase, by place."""

    def __init__(self, streams: list[Stream], split: Split, phase: Phase, name: str, seed: int) -> None:
        self.context = phase.context
        self.key = (seed, "order", name)
        self.count = max(1, round(phase.tokens / (WINDOW_ROWS * phase.context)))
        self.windows = Windows(streams, [split.ranges[s.folder][0] for s in streams], self.count)
        # One and a half batches are looked at, so that many windows are held.
        held = 3 + -(-3 * phase.batch_tokens // (2 * WINDOW_ROWS * phase.context))
        self.window = lru_cache(maxsize=held)(self._window)

    def _window(self, number: int) -> Rows:
        return window_rows(self.windows, number, self.context, self.key)

    def left(self, place: Place, enough: int) -> int:
        """Rows from a place to the phase's end, counted up to `enough`."""
        found, number = -place.row, place.window
        while number < self.count and found < enough:
            found, number = found + len(self.window(number)), number + 1
        return found

    def take(self, place: Place, wanted: int) -> tuple[Rows, Place] | None:
        """The batch of `wanted` rows at a place and the place after it; None at the phase's end."""
        left = self.left(place, -(-3 * wanted // 2))
        if not left:
            return None
        count = left if 2 * left < 3 * wanted else wanted
        parts: list[Rows] = []
        number, row = place.window, place.row
        while count:
            found = self.window(number)[row : row + count]
            parts.append(found)
            row, count = row + len(found), count - len(found)
            if count:
                number, row = number + 1, 0
        return join([p for p in parts if len(p)]), Place(number, row)
