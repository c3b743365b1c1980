"""Long work shows progress: a bar on a terminal, a plain line now and then elsewhere (a pod's log, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 130
"""Columns of tables in a file, a pod's log or CI, where no terminal says how many there are."""
LINE_EVERY = 20.0
"""Seconds between two plain lines."""


def console() -> Console:
    """Where tables are printed: as wide as the terminal, or wide enough to be read elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


class Bar:
    """Progress of one piece of work; `advance` is cheap enough to be called for every step."""

    def __init__(self, title: str, total: float, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.note = 0.0, ""
        self.started = self.printed = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more; `note` is shown beside the bar (loss, tokens per second)."""
        self.done, self.note = self.done + amount, note or self.note
        now = time.monotonic()
        if now - self.printed >= LINE_EVERY:
            self.printed = now
            self._line(note)

    def _line(self, note: str) -> None:
        seconds = time.monotonic() - self.started
        left = seconds * (self.total - self.done) / self.done if self.done else 0
        share = 100 * self.done / self.total if self.total else 100
        print(f"  {self.title} {share:3.0f} % {note} {left:.0f} s left".replace("  ", " "), flush=True)


class _RichBar(Bar):
    def __init__(self, title: str, total: float, unit: str) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        super().__init__(title, total, unit)
        columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), transient=True)
        self.task = self.progress.add_task(title, total=total, note="")
        self.progress.start()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done, self.note = self.done + amount, note or self.note
        self.progress.update(self.task, advance=amount)
        if note:
            self.progress.update(self.task, note=note)


_shown: list[Bar] = []
"""Bars of this process that are at work, the innermost last."""


def now() -> dict[str, float | str]:
    """How far the innermost bar is, for who watches from outside (mmenc.heartbeat); {} without one."""
    if not _shown:
        return {}
    at = _shown[-1]
    seconds = time.monotonic() - at.started
    left = {"seconds_left": round(seconds * (at.total - at.done) / at.done, 1)} if at.done else {}
    return {"title": at.title, "done": at.done, "total": at.total, "unit": at.unit, "note": at.note, **left}


@contextmanager
def bar(title: str, total: float, unit: str = "") -> Iterator[Bar]:
    """Show the progress of a block of work."""
    shown = _RichBar(title, total, unit) if sys.stdout.isatty() else Bar(title, total, unit)
    _shown.append(shown)
    try:
        yield shown
    finally:
        _shown.remove(shown)
        if isinstance(shown, _RichBar):
            shown.progress.stop()
