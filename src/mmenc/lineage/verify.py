"""Verification: every hash that can be reached from an artifact is computed again; tamper and loss are one sentence each.

Decision: four places are asked. The artifact and its `lineage.json` (each manifest in it must give its own digest and
content, and name parents that are there); the ancestors below the same `artifacts/`; what the store owns of them; the raw files
and the files that the recipe named. A copy of one artifact alone (a pushed release) has no ancestors beside it: these are said
to be not checked. Where some of them lie there, one that does not is lost, and so is the raw data. Objects of a bucket have no
hash before they are read: their version must still exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenc.artifact import Artifact, Json, Manifest, Parent, Request, content_of, sha256_file
from mmenc.errors import Refused
from mmenc.external import Cache
from mmenc.lineage import label, manifests_of
from mmenc.raw import read_pointer
from mmenc.steps import TABLE
from mmenc.store import Store, is_remote, object_key

PATIENCE = 20.0
"""Seconds that an unreachable store is waited for: a check is run again easily."""


def find_broken(artifact: Artifact) -> tuple[list[Json], list[str]]:
    """Every broken thing as `{path, reason}`; and sentences about what could not be looked at."""
    root = _root_of(artifact.path)
    cache = Cache(root / ".cache", PATIENCE)
    broken = [_row(artifact.path / name, reason) for name, reason in artifact.broken()]
    broken += _broken_objects(artifact.manifest, cache)
    broken += [_row(artifact.path / "lineage.json", reason) for reason in _lies(artifact)]
    beside = _beside(root, artifact)
    if not beside and artifact.lineage:
        return broken, [f"{len(artifact.lineage)} ancestors and the raw files, which do not lie beside {artifact.path}"]
    skipped: list[str] = []
    for digest, node in sorted(artifact.lineage.items()):
        if digest in beside:
            broken += _broken_ancestor(beside[digest], node, cache)
        else:
            broken.append(_row(*_lost(root, node)))
    for node in manifests_of(artifact).values():
        found, left = _broken_inputs(node, root.parent)
        broken, skipped = broken + found, skipped + left
    return broken, skipped


def _row(path: Path | str, reason: str) -> Json:
    return {"path": str(path), "reason": reason}


def _root_of(path: Path) -> Path:
    """The nearest folder called `artifacts` above an artifact, else its parent."""
    return next((p for p in path.absolute().parents if p.name == "artifacts"), path.absolute().parent)


def _lies(artifact: Artifact) -> Iterator[str]:
    """What in lineage.json contradicts itself: a manifest in it was changed, taken out or put in its place."""
    known = manifests_of(artifact)
    for digest, node in sorted(artifact.lineage.items()):
        parents = tuple(Parent(**p) for p in node["parents"])
        inputs = tuple(node["inputs"])
        request = Request(node["step"], node["name"], node["version"], node["config"], parents, inputs)
        if not request.digest == node["digest"] == digest:
            yield f"the manifest of {label(node)} in it was changed: its digest does not follow from config, parents and inputs"
        elif content_of(node["files"], node["external"]) != node["content"]:
            yield f"the manifest of {label(node)} in it was changed: its content does not follow from its files"
    for node in known.values():
        for parent in node["parents"]:
            if parent["digest"] not in known:
                yield f"the manifest of {label(node)}'s parent {parent['role']} ({parent['digest'][:12]}…) is missing from it"
            elif known[parent["digest"]]["content"] != parent["content"]:
                yield f"{label(node)} was made from another {parent['role']} than the one that it describes"


def _beside(root: Path, artifact: Artifact) -> dict[str, Path]:
    """Ancestors below the same root, by digest; one whose manifest cannot be read is found again by its place."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("manifest.json")):
        folder = path.parent
        if any(part.startswith(".") for part in folder.relative_to(root).parts) or folder == artifact.path.absolute():
            continue
        try:
            digest = Manifest.read(folder).digest
        except Refused:
            place = folder.relative_to(root).as_posix()
            digest = next((d for d, m in artifact.lineage.items() if _place(m) == place), "")
        if digest in artifact.lineage:
            found[digest] = folder
    return found


def _place(node: Json) -> str:
    step = TABLE.get(node["step"])
    return step.folder.format(name=node["name"]) if step else label(node)


def _lost(root: Path, node: Json) -> tuple[Path, str]:
    """Where an ancestor should lie, and what is there instead."""
    path = root / _place(node)
    which = f"{label(node)} ({node['digest'][:12]}…), an ancestor,"
    if not (path / "manifest.json").is_file():
        return path, f"{which} is missing"
    return path, f"{which} is missing: another result lies there ({Manifest.read(path).digest[:12]}…), made after it"


def _broken_ancestor(path: Path, node: Json, cache: Cache) -> Iterator[Json]:
    try:
        found = Manifest.read(path)
    except Refused as error:
        where, _, reason = str(error).partition(": ")
        yield _row(where, reason)
        return
    if found.content != node["content"]:
        yield _row(path, f"content is {found.content[:12]}…, the descendant was made from {node['content'][:12]}…")
    for name, reason in Artifact(path, found, {}).broken():
        yield _row(path / name, reason)
    yield from _broken_objects(found, cache)


def _broken_objects(manifest: Manifest, cache: Cache) -> Iterator[Json]:
    """What the store owns of an artifact, read through and compared."""
    for row in manifest.external:
        try:
            if cache.store(row["uri"]).sha256(object_key(row["sha256"])) != row["sha256"]:
                yield _row(row["uri"], f"is not what {row['path']} was: its sha256 differs")
        except FileNotFoundError:
            yield _row(row["uri"], f"is missing from the store ({row['path']})")


def _broken_inputs(node: Json, place: Path) -> tuple[list[Json], list[str]]:
    """Raw files of ingest, and whatever else a step read that is no artifact."""
    if not node["inputs"]:
        return [], []
    if node["step"] == "ingest":
        return _broken_raw(node, place)
    step = TABLE.get(node["step"])
    named = {p: str(node["config"].get(p.split(".")[0], {}).get(p.split(".")[1], "")) for p in step.files} if step else {}
    if step and step.source:
        section, _, key = step.source.partition(".")
        named[""] = str(node["config"].get(section, {}).get(key, ""))
    broken: list[Json] = []
    skipped = 0
    for item in node["inputs"]:
        parameter = next((p for p in named if p and item["path"].startswith(f"{p}/")), "")
        given = named.get(parameter, "")
        folder = place / given
        folder = folder.parent if folder.is_file() else folder
        if "sha256" not in item or is_remote(given) or not given or not folder.is_dir():
            skipped += 1
            continue
        broken += _compared(folder / item["path"].removeprefix(f"{parameter}/"), item, f"since {label(node)} read it")
    return broken, [f"{skipped} files that {label(node)} read outside of the artifacts"] if skipped else []


def _compared(path: Path, item: Json, since: str, shown: str = "") -> Iterator[Json]:
    if not path.is_file():
        yield _row(shown or path, "is missing")
    elif sha256_file(path) != item["sha256"]:
        yield _row(shown or path, f"was changed {since}")


def _broken_raw(node: Json, place: Path) -> tuple[list[Json], list[str]]:
    given = str(node["config"]["ingest"]["root"])
    files = [item for item in node["inputs"] if "version" not in item]
    objects = [item for item in node["inputs"] if "version" in item]
    broken: list[Json] = []
    skipped: list[str] = []
    if files and (place / given).is_dir():
        for item in files:
            broken += _compared(place / given / item["path"], item, "since it was ingested", item["path"])
    elif files:
        broken.append(_row(given, f"is missing, with the {len(files)} raw files that were ingested from it"))
    if objects:
        found, left = _broken_versions(objects, given, place)
        broken, skipped = broken + found, [left] if left else []
    return broken, skipped


def _broken_versions(objects: list[Json], given: str, place: Path) -> tuple[list[Json], str]:
    """Objects of a bucket whose version is gone; the bucket is the recipe's root or that of its pointer."""
    said = f"{len(objects)} raw objects of a bucket or a data set, whose address the manifest does not hold"
    try:
        local = place / given
        base = given if is_remote(given) else read_pointer(str(local))["base"] if local.is_file() else ""
    except Refused:
        base = ""
    if not base or not base.startswith("s3://"):
        return [], said
    store = Store(base.removesuffix("/"), PATIENCE, versions=True)

    def look(item: Json) -> Json | None:
        version = str(item["version"])
        key = item["path"] + ("" if version.startswith("etag:") else f"?versionId={version}")
        try:
            info: Any = store.attempt(lambda: store.fs.info(store.path(key)))
        except FileNotFoundError:
            return _row(f"{base}/{item['path']}", f"version {version} is gone from the bucket")
        changed = version.startswith("etag:") and str(info["ETag"]).strip('"') != version[5:]
        return _row(f"{base}/{item['path']}", "was changed since it was ingested") if changed else None

    return [row for row in store.each(look, objects) if row], ""
