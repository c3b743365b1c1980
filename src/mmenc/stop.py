"""How SIGTERM and Ctrl-C end a step: at once with nothing half-written, or, in training, with its state saved.

Decision: the handler raises, because a data step may wait inside a library for minutes. What a raised exception does badly is
kept from it. Inside an import it would leave locks of the import system taken, or be printed and lost in one of its callbacks:
there the signal comes again a moment later. And a library may swallow it, or wait for a lock that it broke: what has not ended
after LIMIT seconds ends without ado, for what it wrote is a temporary folder that nobody takes for a result.
"""

from __future__ import annotations

import _thread
import inspect
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmenc.errors import Stopped

LIMIT = 30.0
"""Seconds that an interrupted step has to tidy up: the time that Kubernetes gives a pod unless told otherwise."""
AGAIN = 0.05
"""Seconds after which a signal that came inside an import is sent again."""
_IMPORTS = "<frozen importlib._bootstrap>"
_LATE = f"mmenc: stopped by a signal; the step had not ended {LIMIT:.0f} s later, run the same command again\n"


class Interrupt(BaseException):
    """Raised by a signal outside of training, where no state needs saving; no library's `except Exception` may eat it."""


requested = False
"""Set by SIGTERM and SIGINT; the training loop looks at it after each step, saves its state and raises Stopped."""
_unhurried = False
_block = object()
"""Which `signals` is at work; a thread that outlived its own does nothing."""


@contextmanager
def unhurried() -> Iterator[None]:
    """In this block a signal only sets `requested`, and the block may take its time: it saves what must not be lost."""
    global _unhurried
    before, _unhurried = _unhurried, True
    try:
        yield
    finally:
        _unhurried = before


@contextmanager
def signals() -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C: leave nothing half-written, raise Stopped (exit code 75)."""
    global requested, _block
    requested, _block = False, object()
    outer = inspect.stack(0)[2].frame

    def handle(number: int, frame: FrameType | None) -> None:
        global requested
        requested = True
        if _unhurried:
            return
        # Not threading.Thread: the signal may have come while the main thread holds one of its locks.
        if _importing(frame, outer):
            _thread.start_new_thread(_again, (_block, number))
            return
        _thread.start_new_thread(_insist, (_block,))
        raise Interrupt

    old = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Interrupt:
        raise Stopped("stopped by a signal; nothing half-written is left, run the same command again") from None
    finally:
        _block = object()
        for s, handler in old.items():
            signal.signal(s, handler)


def _importing(frame: FrameType | None, outer: FrameType) -> bool:
    while frame is not None and frame is not outer:  # a program may run the step while it is itself imported
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


def _again(block: object, number: int) -> None:
    time.sleep(AGAIN)
    if block is _block:
        os.kill(os.getpid(), number)


def _insist(block: object) -> None:
    end = time.monotonic() + LIMIT
    while block is _block:
        if time.monotonic() > end and not _unhurried:
            os.write(2, _LATE.encode())
            os._exit(Stopped.exit_code)
        time.sleep(0.2)
