"""Which step runs here now: `.runs/<digest>/running.json`, kept by the process that runs it and read by `mmenc watch`.

Decision: a file and not a socket, because who watches may sit in another terminal, on another machine that sees the same
folder, or come after a crash. It holds the process (host, pid, start), its process group (all steps of one `dvc repro` share
it), where it writes, and the bar's progress; it is written anew every second while that changes, every ten otherwise (20 µs of
a step's time). A step that ends well removes it; one that fails or is stopped leaves the reason; one that was killed leaves a
file whose process is gone. Clocks and hosts are allowed here, and only here: nothing below `.runs` is in an artifact.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmenc import progress
from mmenc.artifact import Json, replace_json
from mmenc.errors import Refused, Stopped

FILE = "running.json"
EVERY = 1.0
"""Seconds between two looks at the progress."""
SILENT = 10.0
"""Seconds until a line is written even if nothing has moved: the sign of life that another machine sees."""
LOST = 60.0
"""Seconds without a sign of life after which a process of another machine counts as gone."""


def process_start(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; "" where /proc does not tell. It tells a reused pid."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _namespace() -> str:
    """Which processes this one can see: a container with the machine's own name has another list of them."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


class _Beat:
    """The writing thread of one step."""

    def __init__(self, path: Path, row: Json) -> None:
        self.path, self.row = path, row
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def _run(self) -> None:
        told, at = "", 0.0
        while not self.end.wait(EVERY):
            now = {"progress": progress.now()}
            text = json.dumps(now)
            if text != told or time.monotonic() - at > SILENT:
                told, at = text, time.monotonic()
                self.write(now)

    def stop(self) -> None:
        """End the thread; a signal may have come before it began."""
        self.end.set()
        if self.thread.ident is not None:
            self.thread.join()

    def write(self, more: Json) -> None:
        """A disk that is full or gone must not stop the step: it will say so itself."""
        with contextlib.suppress(OSError):
            replace_json(self.path, {**self.row, "beat": time.time(), **more})


@contextmanager
def beating(folder: Path, step: str, name: str, digest: str, out: Path) -> Iterator[None]:
    """Say in `folder` that a step runs, while the block does; keep the reason if it fails."""
    row: Json = {"step": step, "name": name, "digest": digest, "out": str(out.absolute()), "started": time.time()}
    row |= {"namespace": _namespace()}
    row |= {"host": platform.node(), "pid": os.getpid(), "process_start": process_start(os.getpid()), "group": os.getpgrp()}
    beat = _Beat(folder / FILE, row)
    try:
        beat.write({})
        beat.thread.start()
        yield
    except BaseException as error:
        beat.stop()
        # What is no Exception is a signal: nothing is wrong with the step.
        stopped = isinstance(error, Stopped) or not isinstance(error, Exception)
        reason = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}".split("\n")[0]
        beat.write({"ended": time.time(), "stopped" if stopped else "failed": "by a signal" if stopped else reason})
        raise
    beat.stop()
    beat.path.unlink(missing_ok=True)


def is_alive(row: Json) -> bool:
    """Whether the process that wrote a running.json is still at it."""
    if "ended" in row:
        return False
    here = row["host"] == platform.node() and row.get("namespace", _namespace()) == _namespace()
    if here and row["process_start"]:
        return bool(process_start(row["pid"]) == row["process_start"])
    return bool(time.time() - row["beat"] < LOST)


def read_all(root: Path) -> list[Json]:
    """Every running.json below an `artifacts/`, oldest first, each with `alive`; what vanishes or is damaged is left out."""
    found: list[Json] = []
    for path in (root / ".runs").glob(f"*/{FILE}"):
        try:
            row: Json = json.loads(path.read_text(encoding="utf-8"))
            texts = {key: str(row[key]) for key in ("step", "name", "digest", "host")}
            told = {"started": float(row["started"]), "pid": int(row["pid"]), "alive": is_alive(row)}
            found.append({**row, **texts, **told})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # cut by a crash, or none of ours
    return sorted(found, key=lambda r: float(r["started"]))
