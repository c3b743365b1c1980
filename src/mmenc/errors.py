"""Errors are sentences for the user; anything else is a bug and keeps its traceback.

Exit codes of the command line (contract): 0 done, 1 refused or failed, 2 usage, 75 stopped with its state saved.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Refused(Exception):
    """What the user asked for cannot be done; the message is one sentence: path, found, expected, nearest name."""

    exit_code = 1


class Stopped(Refused):
    """A signal asked for an end and the state is saved: running the same command again goes on (EX_TEMPFAIL)."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
