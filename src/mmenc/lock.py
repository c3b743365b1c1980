"""One writer per digest: who works at a result holds the lock of its resume folder, and nobody else touches that folder.

Decision: `flock` on a file beside the folder, because the kernel drops it with the process, however that ends; the file's text is
the process, for the sentence that the next one prints.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmenc.errors import Refused


@contextmanager
def locked(resume: Path) -> Iterator[None]:
    """One writer per digest at a time; the lock dies with its process."""
    resume.parent.mkdir(parents=True, exist_ok=True)
    path = resume.with_suffix(".lock")
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise Refused(
                f"{resume}: process {handle.read().strip() or '?'} is already running this step; wait or stop it"
            ) from None
        # Whoever held it may have removed the file meanwhile: a lock on that file would keep nobody out.
        if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
            raise Refused(f"{resume}: another process has just ended this step; run the same command again")
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
        path.unlink(missing_ok=True)


def is_locked(resume: Path) -> bool:
    """Whether a process holds the lock; looking makes no file."""
    try:
        with resume.with_suffix(".lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def tidy(resume: Path) -> bool:
    """Remove what a process left that is gone, not what another is working with; whether nothing is left."""
    if resume.is_dir():
        with suppress(Refused), locked(resume):
            shutil.rmtree(resume, ignore_errors=True)
    return not resume.exists()
