"""Which raw files two revisions differ in, from what git holds of them: a `.dvc` file, a pointer, or the files themselves.

Decision: no DVC and no data are needed. A `data.dvc` that was pushed to a version-aware remote lists its files itself; of a
normal one the list is one small object (`files/md5/ab/cdef.dir`) in DVC's cache or remote, which is read from there. Where it
cannot be had, the whole counts as changed and languages are not named. Only what `ingest` reads counts: with
`ingest.languages` a new shard of another language retrains nothing; with `ingest.sources` any changed file does.
"""

from __future__ import annotations

import configparser
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmenc.artifact import Json, sha256_file, sha256_json
from mmenc.errors import Refused
from mmenc.raw import remotes
from mmenc.store import Store, is_remote

if TYPE_CHECKING:
    from mmenc.retrain.revision import State

PATIENCE = 10.0
"""Seconds that a remote is waited for: a comment without names of languages is better than none."""


Sized = tuple[str, int | None]
"""Identity of a file, and its bytes where they are written down."""


def read(root: Path, tree: Path, ingest: Json) -> tuple[dict[str, str], dict[str, int]]:
    """Identity of each raw file that ingest reads, by path (`{"": hash}` where only the whole is known), and known sizes."""
    found = {p: row for p, row in sorted(_files(root, tree, str(ingest["root"])).items()) if not p or _wanted(p, ingest)}
    return {p: identity for p, (identity, _) in found.items()}, {p: n for p, (_, n) in found.items() if n is not None}


def _wanted(path: str, ingest: Json) -> bool:
    if any(part.startswith(".") for part in path.split("/")):
        return False
    if ingest["languages"] == "all" or ingest["sources"]:
        return True
    chosen = {_tag(name, ingest["aliases"]) for name in ingest["languages"]}
    return _tag(path.partition("/")[0], ingest["aliases"]) in chosen


def _tag(name: str, aliases: Mapping[str, str]) -> str:
    from mmenc.data.tags import resolve

    try:
        return resolve(name, aliases).name
    except Refused:
        return name


def _files(root: Path, tree: Path, place: str) -> dict[str, Sized]:
    pointer = tree / f"{place}.dvc"
    if pointer.is_file():
        return _of_dvc(root, yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0])
    if is_remote(place):  # `mmenc point` names a pointer by its hash: an equal address is equal data
        return {"": (place, None)}
    path = tree / place
    if path.is_file():
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        return {str(o["path"]): (str(o["version"]), int(o["bytes"])) for o in objects}
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file()]
        return {p.relative_to(path).as_posix(): (sha256_file(p), p.stat().st_size) for p in files}
    return {"": ("git holds nothing of it", None)}


def _of_dvc(root: Path, out: Json) -> dict[str, Sized]:
    if listed := out.get("files"):
        return {f["relpath"]: (str(f.get("md5") or sha256_json(f.get("cloud", {}))), f.get("size")) for f in listed}
    whole = str(out.get("md5", ""))
    found = _object(root, whole)
    if found is None:
        return {"": (whole or sha256_json(out), None)}
    return {str(f["relpath"]): (str(f["md5"]), None) for f in json.loads(found)}


@dataclass(frozen=True)
class Places:
    """Where DVC's objects may lie: folders and buckets that end in `files/md5`."""

    roots: list[str]

    @classmethod
    def of(cls, root: Path) -> Places:
        """The cache of this checkout, then its remotes, the default one first."""
        settings = configparser.ConfigParser()
        settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
        cache = settings.get("cache", "dir", fallback="cache")
        default = settings.get("core", "remote", fallback="")
        known = remotes(root)
        order = sorted(known, key=lambda name: name != default)
        urls = [u if is_remote(u) else str(root / ".dvc" / u) for u in (cache, *(known[name] for name in order))]
        return cls([f"{u.rstrip('/')}/files/md5" for u in urls])


def _key(md5: str) -> str:
    return f"{md5[:2]}/{md5[2:]}"


def _object(root: Path, md5: str) -> str | None:
    """A small object of DVC; None where it cannot be had."""
    for place in Places.of(root).roots:
        try:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "object"
                Store(place, PATIENCE).fetch(_key(md5), target)
                return target.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError, Refused):
            continue
    return None


def size(root: Path, md5: str) -> int | None:
    """Bytes of one of DVC's objects; None where nobody has it."""
    for place in Places.of(root).roots:
        try:
            found = Store(place, PATIENCE).size(_key(md5))
        except Refused:
            continue
        if found is not None:
            return found
    return None


def compare(root: Path, before: State | None, after: State) -> Json:
    """`{changed, known, languages: {FOLDER: {state, files: {new, changed, gone}, bytes: [old, new]}}}`; bytes null if unknown."""
    old, new = before.data if before else {}, after.data
    if old == new or before is None:
        return {"changed": False, "known": True, "languages": {}}
    if "" in old or "" in new:
        return {"changed": True, "known": False, "languages": {}}
    languages: dict[str, Any] = {}
    for folder in sorted({p.partition("/")[0] for p in {*old, *new} if old.get(p) != new.get(p)}):
        mine, yours = ({p: i for p, i in files.items() if p.partition("/")[0] == folder} for files in (old, new))
        languages[folder] = {
            "state": "new" if not mine else "gone" if not yours else "changed",
            "files": {
                "new": len(yours.keys() - mine.keys()),
                "changed": sum(yours[p] != mine[p] for p in yours.keys() & mine.keys()),
                "gone": len(mine.keys() - yours.keys()),
            },
            "bytes": [_bytes(root, mine, before.sizes), _bytes(root, yours, after.sizes)],
        }
    return {"changed": True, "known": True, "languages": languages}


def _bytes(root: Path, files: Mapping[str, str], known: Mapping[str, int]) -> int | None:
    """Bytes of some files; DVC's list of a folder has no sizes, so its objects are asked."""
    total = 0
    for path, identity in files.items():
        found = known[path] if path in known else size(root, identity) if len(identity) == 32 else None
        if found is None:
            return None
        total += found
    return total
