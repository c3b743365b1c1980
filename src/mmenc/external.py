"""Files of an artifact that the store owns: given away when the artifact is sealed, fetched when a step opens them.

Decision: the manifest lists such a file under `external` with its URI and sha256, so `content` is the same as if it lay in
the directory. A step gets a directory of links: small files from the artifact, large ones from a cache beside `.runs`, each
compared with its hash before it is linked. Only what a step asks for is fetched; the cache may be deleted at any time.
Finished artifacts are remembered in the store by digest, so that a retried pod, another machine or another run takes the
result instead of computing it again; like resume state they count only when the parents' content is equal.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmenc.errors import Refused
from mmenc.store import PATIENCE, Store, Unreachable, object_key, open_store

if TYPE_CHECKING:
    from mmenc.artifact import Json, Manifest, Request

AGAIN = "delete the artifact that lists it, and run its step again"
"""Both: a step whose artifact is there is up to date, and an object that is there (of equal size) is not given again."""


class Cache:
    """Objects of the store on this machine, under `folder/objects`, and this process's directories of links."""

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self.folder, self.patience = folder.absolute(), patience
        self.views: Path | None = None
        self.stores: dict[str, Store] = {}

    def close(self) -> None:
        """Drop the directories of links; the objects stay."""
        if self.views:
            shutil.rmtree(self.views, ignore_errors=True)

    def store(self, uri: str) -> Store:
        """The store of an object; a client and its connections are made once, not per file."""
        root = uri.rpartition("/objects/")[0]
        if root not in self.stores:
            self.stores[root], _ = open_store(uri, self.patience)
        return self.stores[root]

    def object(self, row: Json) -> Path:
        """The file of an `external` row, fetched if it is missing or damaged; Refused when the store's copy is wrong."""
        from mmenc.artifact import sha256_file

        path = self.folder / object_key(row["sha256"])
        if path.is_file() and sha256_file(path) == row["sha256"]:
            return path
        try:
            self.store(row["uri"]).fetch(object_key(row["sha256"]), path)
        except FileNotFoundError:
            raise Refused(f"{row['uri']}: {row['path']} is not in the store any more; {AGAIN}") from None
        if (found := sha256_file(path)) != row["sha256"]:
            path.unlink(missing_ok=True)
            reason = f"sha256 is {found[:12]}…, the manifest says {row['sha256'][:12]}…: damaged"
            raise Refused(f"{row['uri']}: {reason}; delete this object and {AGAIN}")
        return path

    def view(self, directory: Path, manifest: Manifest, patterns: Sequence[str]) -> Path:
        """A directory of links to all files, in which those that match (without patterns: all) can be opened."""
        if self.views is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.views = Path(tempfile.mkdtemp(prefix="view.", dir=self.folder))
        view = self.views / manifest.content
        if not (view / "manifest.json").is_symlink():
            # What was not asked for is listed all the same, and opening it fails: a file never seems to be absent.
            for row in manifest.external:
                _link(view / row["path"], self.folder / "not-fetched" / row["path"])
            for name in (*manifest.files, "lineage.json", "manifest.json"):
                _link(view / name, directory.absolute() / name)
        for row in manifest.external:
            wanted = not patterns or any(fnmatchcase(row["path"], p) for p in patterns)
            if wanted and not (view / row["path"]).exists():
                _link(view / row["path"], self.object(row))
        return view


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # another process of this step made the same one
            link.symlink_to(target)


@lru_cache(maxsize=8)
def _external(view: Path) -> dict[str, Json]:
    from mmenc.artifact import read_json

    return {row["path"]: row for row in read_json(view / "manifest.json")["external"]}


def _listed(link: Path) -> tuple[Path, Json]:
    """The view in which a link to a file of the store lies, and the manifest's row of that file."""
    view = next(p for p in link.parents if (p / "manifest.json").is_file())
    return view, _external(view)[link.relative_to(view).as_posix()]


@lru_cache(maxsize=4)
def _cache(folder: Path, patience: float) -> Cache:
    return Cache(folder, patience)


def size_of(path: Path) -> int:
    """Bytes of an artifact's file, wherever it lies."""
    return int(_listed(path)[1]["bytes"]) if path.is_symlink() and not path.exists() else path.stat().st_size


def bring(link: Path, patience: float) -> None:
    """Fetch the file of a view that a link stands for, from whichever process has the link."""
    view, row = _listed(link)
    _link(link, _cache(view.parents[1], patience).object(row))


def _move(path: Path, kept: Path) -> None:
    """Rename, or copy where the cache lies on a file system of its own (a volume under MMENC_STATE)."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = kept.with_name(f".tmp.{uuid.uuid4().hex[:8]}")
        try:
            shutil.copyfile(path, partial)
            partial.replace(kept)
        finally:
            partial.unlink(missing_ok=True)
        path.unlink()


def give(work: Path, patterns: Sequence[str], store: Store, cache: Cache) -> list[Json]:
    """Move the large files of a finished directory to the store; return their rows `{path, uri, bytes, sha256}`."""
    from mmenc.artifact import payload, sha256_file

    large = [n for n in payload(work) if any(fnmatchcase(n, p) for p in patterns)]

    def row(name: str) -> Json:
        path = work / name
        sha256 = sha256_file(path)
        uri = store.put_object(path, sha256)
        size = path.stat().st_size
        kept = cache.folder / object_key(sha256)
        _move(path, kept)
        return {"path": name, "uri": uri, "bytes": size, "sha256": sha256}

    return store.each(row, large)


def remember(store: Store, directory: Path, manifest: Manifest) -> None:
    """Put a finished artifact's small files and its manifest into the store, the manifest last."""
    store.each(lambda item: store.put_object(directory / item[0], item[1]), manifest.files.items())
    for name in ("lineage.json", "manifest.json"):
        store.put(directory / name, f"finished/{manifest.digest}/{name}")


def finished(store: Store, digest: str, parents: Mapping[str, tuple[str, str]]) -> Json | None:
    """The manifest of a finished artifact, if it comes from the same parents (digest and content by role)."""
    found, _ = store.read_json(f"finished/{digest}/manifest.json")
    if found is None or {p["role"]: (p["digest"], p["content"]) for p in found["parents"]} != parents:
        return None
    manifest: Json = found
    return manifest


def recall(store: Store, request: Request, work: Path) -> bool:
    """Fill `work` with the finished artifact of this request; False if the store has none of the same parents."""
    key = f"finished/{request.digest}"
    found = finished(store, request.digest, {p.role: (p.digest, p.content) for p in request.parents})
    if found is None:
        return False
    try:
        store.each(lambda item: _bring(store, work / item[0], item[1]), found["files"].items())
        if not all(store.each(lambda row: store.size(object_key(row["sha256"])) == row["bytes"], found["external"])):
            raise FileNotFoundError
        for name in ("lineage.json", "manifest.json"):
            store.fetch(f"{key}/{name}", work / name)
    except FileNotFoundError:
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return False
    return True


def _bring(store: Store, path: Path, sha256: str) -> None:
    from mmenc.artifact import sha256_file

    store.fetch(object_key(sha256), path)
    if sha256_file(path) != sha256:
        raise FileNotFoundError(path)


def keep_record(store: Store, digest: str, record: Json) -> None:
    """Put a run's record beside the results; a store that is out of reach now does not undo a finished step."""
    try:
        store.put_json(f"runs/{digest}/run.json", record, patience=10)
    except Unreachable as error:
        print(f"  the run's record stays on this machine: {error}", flush=True)
