"""Resume state in the store: a retried pod, or the same command on another machine, goes on from the last saved step.

Decision: `resume/<digest>/current.json` names the files of the local resume folder by hash (their objects lie beside it)
and is replaced only if nobody else has replaced it since it was read: of two processes that run one step, the later to
save stops with a sentence, and neither can mix its state into the other's. A store that is out of reach does not stop
training; the state stays on this machine and the next save tries again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mmenc.artifact import Json, Parent, Request, atomic_directory, payload, sha256_file
from mmenc.errors import Refused
from mmenc.store import Changed, Store, Unreachable

WHILE_TRAINING = 20.0
"""Seconds that training waits for the store: below Kubernetes' 30 s between SIGTERM and SIGKILL."""
AFTER_OUTAGE = 60.0
"""Seconds until the next try: training must not spend its time waiting for a store that is down."""


def request_of(plain: Json) -> Request:
    """The inverse of `asdict`."""
    return Request(**{**plain, "parents": tuple(Parent(**p) for p in plain["parents"]), "inputs": tuple(plain["inputs"])})


class Mirror:
    """The store's copy of one step's resume folder; made by `restore`."""

    def __init__(self, store: Store, request: Request, folder: Path) -> None:
        self.store, self.request, self.folder = store, request, folder
        self.root = f"resume/{request.digest}"
        self.parents = {p.role: p.content for p in request.parents}
        self.writer = uuid.uuid4().hex
        self.version = ""
        self.there: dict[str, str] = {}
        self.patience = min(WHILE_TRAINING, store.patience)
        self.next_try = 0.0
        self.hashes: dict[tuple[str, int, int], str] = {}

    def json(self) -> Json:
        """What another process needs to write in this one's place."""
        store = {"url": self.store.url, "patience": self.store.patience}
        return {**store, "request": asdict(self.request), "version": self.version, "there": self.there}

    @classmethod
    def taken_over(cls, plain: Json, folder: Path) -> Mirror:
        """The mirror of another process, which writes no more."""
        mirror = cls(Store(plain["url"], plain["patience"]), request_of(plain["request"]), folder)
        mirror.version, mirror.there = plain["version"], plain["there"]
        return mirror

    def restore(self) -> None:
        """Bring the store's state here, unless what lies here is as new."""
        found, self.version = self.store.read_json(f"{self.root}/current.json")
        if found is None or found["parents"] != self.parents:
            return
        self.there = found["files"]
        if _newest(self.there) <= _newest(_files(self.folder)):
            return
        try:
            # Whole or not at all: what an interrupted restore left would pass for state as new as the store's.
            with atomic_directory(self.folder) as work:
                self.store.each(lambda item: self._fetch(work / item[0], item[1]), self.there.items())
        except FileNotFoundError as error:
            print(f"  warning: the store's resume state is not whole ({error}); going on from what is here", flush=True)
            return
        print(f"  resume state taken from {self.store.uri(self.root)}", flush=True)

    def _fetch(self, path: Path, sha256: str) -> None:
        self.store.fetch(f"{self.root}/objects/{sha256}", path)

    def _hash(self, name: str) -> str:
        """The hash of a local file; what is written once is read once, not at every save."""
        path = self.folder / name
        key = (name, path.stat().st_size, path.stat().st_mtime_ns)
        if key not in self.hashes:
            self.hashes[key] = sha256_file(path)
        return self.hashes[key]

    def _find_lost(self) -> None:
        """After an outage: our last write may have arrived and only its answer was lost."""
        found, version = self.store.read_json(f"{self.root}/current.json", self.patience)
        if found and found["writer"] == self.writer:
            self.version, self.there = version, found["files"]

    def save(self, *, last: bool = False) -> None:
        """Make the store's copy equal to the local folder; Refused if another process has taken the step over.

        After an outage it is left in peace for a while, unless this is the last chance.
        """
        if time.monotonic() < self.next_try and not last:
            return
        files = {name: self._hash(name) for name in _files(self.folder)}
        try:
            if self.next_try:
                self._find_lost()
                self.next_try = 0.0
            new = {sha: name for name, sha in files.items() if sha not in self.there.values()}
            self.store.each(
                lambda item: self.store.put(self.folder / item[1], f"{self.root}/objects/{item[0]}", self.patience), new.items()
            )
            state: Json = {"schema": 1, "parents": self.parents, "writer": self.writer, "files": files}
            self.version = self.store.put_json(f"{self.root}/current.json", state, self.version, self.patience)
            for old in {*self.there.values()} - {*files.values()}:
                self.store.remove(f"{self.root}/objects/{old}", self.patience)
        except Unreachable as error:
            print(f"  warning: the resume state is saved on this machine only: {error}", flush=True)
            self.next_try = time.monotonic() + AFTER_OUTAGE
            return
        except Changed:
            raise Refused(
                f"{self.store.uri(self.root)}: another process is running this step and has saved its state there; this one stops"
            ) from None
        self.there = files

    def remove(self) -> None:
        """Drop the store's copy; the step is finished."""
        try:
            self.store.remove(self.root, min(10.0, self.store.patience))
        except Unreachable as error:
            print(f"  warning: the resume state stays in the store ({error}); delete {self.store.uri(self.root)}", flush=True)


def _files(folder: Path) -> list[str]:
    return [n for n in payload(folder) if not n.startswith((".tmp.", "kept/.tmp."))]


def _newest(names: Iterable[str]) -> str:
    """The highest step that a resume folder holds; its sub-folders are zero-padded step numbers."""
    steps = {n.partition("/")[0] for n in names}
    return max((s for s in steps if s.isdigit()), default="")
