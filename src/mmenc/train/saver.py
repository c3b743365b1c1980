"""Writes checkpoints beside training: the state is copied in the step's own thread, files are written in another.

Decision: one write at a time and at most one waiting for it (the caller then waits), so that memory holds one copy. What
goes wrong in the thread is raised at the next call: a full disk is never lost.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Saver:
    """A thread that writes; `wait` returns when everything asked for lies on the disk."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.last: Future[None] | None = None

    def write(self, job: Callable[[], None]) -> None:
        """Run a job in the thread, after the one before it."""
        self.wait()
        self.last = self.pool.submit(job)

    def wait(self) -> None:
        """Return when nothing is being written; raise what went wrong."""
        last, self.last = self.last, None
        if last:
            last.result()

    def close(self) -> None:
        """Let the running write end; what it raises is said here where an error elsewhere came first."""
        self.pool.shutdown(wait=True)
        if self.last and (error := self.last.exception()):
            print(f"  warning: the last state was not written: {error}", flush=True)
