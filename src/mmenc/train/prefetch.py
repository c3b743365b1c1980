"""The parts of the next steps, made in a thread while the model computes.

Decision: a thread, not a process: what takes time in packing, joining and masking is numpy, which lets go of the
interpreter; nothing is copied or pickled, and a signal or an error ends it with the loop. What is prepared is a function of
seed, phase and step alone, so looking ahead changes nothing; where the loop stands is said by what it has taken, never by
what is ready. At most `DEPTH` steps are ready or being made (a step of 4.7 M tokens holds 80 MB).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from mmenc.data.packing import Rows
from mmenc.sections import Phase
from mmenc.train.batches import Batches, Place
from mmenc.train.micro import Part
from mmenc.train.schedule import batch_rows

DEPTH = 2
"""One is being made while the model computes, one covers a step that takes longer to make (a new block of windows)."""
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """What one step needs."""

    rows: Rows
    after: Place
    """Where the next batch begins."""
    last: bool
    """Whether the phase ends with it."""
    parts: list[Part]
    masked: int
    """Masked tokens of the whole batch."""


def prepare(
    batches: Batches, phase: Phase, make: Callable[[Rows, int, int], tuple[list[Part], int]], place: Place, tokens: int, step: int
) -> Iterator[Prepared]:
    """The steps of a phase from a place on; `make` gives the parts of a batch from its rows, tokens before it, and step."""
    while taken := batches.take(place, batch_rows(phase, tokens)):
        rows, place = taken
        parts, masked = make(rows, tokens, step)
        yield Prepared(rows, place, not batches.left(place, 1), parts, masked)
        tokens, step = tokens + sum(rows.stored().values()), step + 1


class Ahead(Generic[T]):
    """Iterates over what `source` yields, made up to `depth` items ahead in a thread; leaving the `with` ends the thread.

    What the source raises is raised here, when its turn comes.
    """

    def __init__(self, source: Iterator[T], depth: int = DEPTH) -> None:
        self.source = source
        self.waited = 0.0
        """Seconds that the loop has waited for data."""
        self._ready: SimpleQueue[tuple[bool, T | BaseException]] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def _work(self) -> None:
        try:
            while self._room.acquire() and not self._ended:
                self._ready.put((True, next(self.source)))
        except BaseException as error:  # noqa: BLE001 (whatever it is, the loop raises it; StopIteration ends the loop)
            self._ready.put((False, error))

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        self._room.release()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        started = time.monotonic()
        good, item = self._ready.get()
        self.waited += time.monotonic() - started
        if not good:
            self._ready.put((False, item))  # asked again, it says so again
            raise item  # type: ignore[misc]
        self._room.release()
        return item  # type: ignore[return-value]
