"""The parts of one step made by several workers on several machines, which meet in the store: `mmenc run STEP --share 2/3`.

Decision: every worker runs the step's own stages. It makes its share of a stage's parts (every N-th), then those of others
that are still missing, in an order of its own, and asks the store before each one. So nobody waits: a worker that comes late,
is slow or lost costs time and never the result, and there is no lock, lease or clock that could be wrong. The price: near
the end of a stage a part may be made twice, by workers that would have nothing else to do. The first share alone puts the
parts together; the others leave no artifact. A part is there when the JSON that lists its files by hash is, which is written
last; its content follows from the input alone, so it does not matter whose it is.
A worker fetches what the arguments of its parts name: files of parts that others made, and files of the step's inputs.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mmenc.artifact import Json, read_json, replace_json, sha256_file, sha256_json
from mmenc.errors import Refused
from mmenc.external import Cache, bring, finished
from mmenc.steps import Step, artifacts_root
from mmenc.store import Store

if TYPE_CHECKING:
    from mmenc.job import Job
    from mmenc.raw import Places
    from mmenc.recipe import Recipe

RESULT, LISTED = ".result.json", ".listed.json"
"""In a part's folder: what its function returned; or, of a part that lies in the store, what is in it."""
FETCHING = ".fetching"
SPLIT = ("ingest", "clean", "tokenize")
"""Steps whose work can be shared."""


class Assisted(Exception):
    """Nothing is left to do for a worker that only helps."""


@dataclass(frozen=True)
class Share:
    """Which of how many workers, from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `I/N`."""
        found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
        if not found or int(found[1]) > int(found[2]):
            raise Refused(f"share {text!r}: expected I/N, such as 2/3 for the second of three workers")
        return cls(int(found[1]), int(found[2]))

    @property
    def helps(self) -> bool:
        """Whether this worker makes parts only."""
        return self.number > 1

    def order(self, keys: Sequence[str]) -> list[str]:
        """The parts in the order in which this worker asks for them; no two workers meet at the same part for long."""
        own = keys[self.number - 1 :: self.of]
        rest = set(keys) - set(own)
        return [*own, *sorted(rest, key=lambda key: hashlib.sha256(f"{self.number} {key}".encode()).digest())]


@dataclass(frozen=True)
class Meeting:
    """The place in the store where the workers of one step meet; goes to worker processes, so it is plain and small."""

    share: Share
    url: str
    patience: float
    digest: str
    parents: Mapping[str, tuple[str, str]]
    """Digest and content by role: parts of other content are none."""
    base: Path
    """Where this worker's own parts lie."""

    @property
    def store(self) -> Store:
        """One client per process."""
        return _store(self.url, self.patience)

    @property
    def root(self) -> str:
        """Below `resume/<digest>`, which is dropped when the step is finished."""
        return f"resume/{self.digest}/parts/{sha256_json(self.parents)[:16]}"

    def _key(self, folder: Path) -> str:
        return f"{self.root}/{folder.relative_to(self.base).as_posix()}.json"

    def there(self, stage: str) -> set[str]:
        """Keys of the parts of a stage that are in the store."""
        return {n.removesuffix(".json") for n in self.store.names(f"{self.root}/{stage}") if n.endswith(".json")}

    def has(self, folder: Path) -> bool:
        """Whether a part is in the store; the end of this worker where the whole step is finished meanwhile."""
        if self.store.size(self._key(folder)) is not None:
            return True
        if self.over():
            self._end()
        return False

    def over(self) -> bool:
        """Whether the step is finished."""
        return finished(self.store, self.digest, self.parents) is not None

    def _end(self) -> NoReturn:
        if self.share.helps:
            raise Assisted
        raise Refused(
            f"{self.store.uri(self.root)}: another process has finished this step meanwhile; run the same command again"
        )

    def _gone(self, what: str) -> NoReturn:
        if self.over():
            self._end()
        raise Refused(f"{self.store.uri(what)}: was removed while this step worked with it; run the same command again")

    def give(self, folder: Path) -> None:
        """Copy a finished part to the store, its list last."""
        names = files_of(folder)
        files = {n: {"sha256": sha256_file(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
        once = {row["sha256"]: name for name, row in files.items()}
        self.store.each(lambda item: self.store.put(folder / item[1], f"{self.root}/objects/{item[0]}"), once.items())
        self.store.put_json(self._key(folder), {"schema": 1, "result": read_json(folder / RESULT), "files": files})

    def collect(self, folders: Sequence[Path]) -> None:
        """Bring what the parts of others returned, and what is in them."""

        def one(folder: Path) -> None:
            row, _ = self.store.read_json(self._key(folder))
            if row is None:
                self._gone(self._key(folder))
            replace_json(folder / LISTED, row)

        self.store.each(one, [f for f in folders if not (f / RESULT).is_file()])

    def bring(self, arguments: object) -> None:
        """Bring every file that arguments name, alone or by its folder, and that is not here."""
        wanted: dict[Path, str] = {}
        for path in _paths(arguments):
            if path.is_relative_to(self.base):
                wanted |= self._files(path)
            elif path.is_symlink() and not path.exists():
                bring(path, self.patience)
        self.store.each(lambda item: self._fetch(*item), wanted.items())

    def _files(self, path: Path) -> dict[Path, str]:
        """The files at or below a path in a part that another worker made, with their hashes."""
        stage, key = path.relative_to(self.base).parts[:2]
        folder = self.base / stage / key
        if (folder / RESULT).is_file():
            return {}
        files = {folder / name: str(row["sha256"]) for name, row in listed(folder).items()}
        return {file: sha256 for file, sha256 in files.items() if file.is_relative_to(path) and not file.exists()}

    def _fetch(self, target: Path, sha256: str) -> None:
        key, partial = f"{self.root}/objects/{sha256}", self.base / FETCHING / uuid.uuid4().hex
        try:
            self.store.fetch(key, partial)
        except FileNotFoundError:
            self._gone(key)
        if (found := sha256_file(partial)) != sha256:
            partial.unlink()
            where = self.store.uri(self.root)
            raise Refused(
                f"{self.store.uri(key)}: sha256 is {found[:12]}…: damaged; delete {where} and run the same command again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)

    def last(self, folders: Sequence[Path]) -> None:
        """After the last stage: its parts come here to be put together, or this worker has done its share."""
        if self.share.helps:
            raise Assisted
        self.bring(folders)


@lru_cache(maxsize=4)
def _store(url: str, patience: float) -> Store:
    return Store(url, patience)


@lru_cache(maxsize=64)
def listed(folder: Path) -> Mapping[str, Json]:
    """What is in a part that lies in the store: hash and size by name."""
    files: Json = read_json(folder / LISTED)["files"]
    return files


def files_of(folder: Path) -> list[str]:
    """The files of a finished part, without what is ours; sorted."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(n for n in names if n not in (RESULT, LISTED) and not n.startswith(".tmp."))


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        yield from _paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)


def meet(job: Job, recipe: Recipe, share: Share) -> Meeting:
    """Where the workers of a step meet; Refused where they cannot."""
    if job.step.name not in SPLIT:
        raise Refused(f"{job.step.name}: its work is not split; --share is for {', '.join(SPLIT)}")
    if not recipe.compute.store:
        raise Refused("compute.store: is empty; --share needs s3://bucket/prefix or a folder, where the workers meet")
    parents = {p.role: (p.digest, p.content) for p in job.request.parents}
    compute = recipe.compute
    return Meeting(share, compute.store, compute.store_patience, job.request.digest, parents, job.resume / "parts")


def assist(step: Step, name: str, recipe: Recipe, out: Path, dirs: Places, share: Share) -> Json:
    """Make a share of a step's parts and no artifact; return the digest and what was made, by stage."""
    from mmenc.job import disk_errors, prepare
    from mmenc.lock import locked
    from mmenc.stop import signals

    cache = Cache(artifacts_root(step, out) / ".cache", recipe.compute.store_patience)
    try:
        with signals(), disk_errors(out):
            job = prepare(step, name, recipe, out, dirs, cache)
            job.resume = job.resume.with_name(f"{job.request.digest}-{share.number}of{share.of}")
            job.meeting = meet(job, recipe, share)
            said = f"{step.name}: share {share.number} of {share.of} of {job.request.digest[:12]}"
            print(said, flush=True)
            with locked(job.resume):
                _assist(job, job.meeting)
            return {"digest": job.request.digest, "made": job.measured.get("parts", {})}
    finally:
        cache.close()


def _assist(job: Job, meeting: Meeting) -> None:
    module, _, function = job.step.function.partition(":")
    try:
        if not meeting.over():
            getattr(importlib.import_module(module), function)(job)
            raise AssertionError(f"{job.step.name}: no stage is its last one")
        job.say(f"finished in {meeting.url} already")
    except Assisted:
        job.say("nothing is left to do for this worker")
    if meeting.over():  # what was given after the end of the step
        meeting.store.remove(f"resume/{meeting.digest}/parts")
    shutil.rmtree(job.resume, ignore_errors=True)
