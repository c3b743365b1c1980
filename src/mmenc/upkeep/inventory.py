"""What lies beside the artifacts and could be dropped, item by item, each with its size and the reason to keep or drop it.

Decision: only four kinds are ever dropped: resume state, run records, fetched objects, work that a dead process left. In use is
what a manifest names (below `artifacts/` with its lineage, or in DVC's cache: other branches and experiments), what a living
process has (its heartbeat, lock or folder of links), and the newest state of a stage that is not done: the next run goes on from
it. State of any other step that is not done may be hours of training of another branch, so it goes only when asked for.
Artifacts are DVC's.
"""

from __future__ import annotations

import configparser
import os
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmenc import heartbeat
from mmenc.artifact import Json, read_json
from mmenc.errors import Refused
from mmenc.form import check_lineage, check_manifest
from mmenc.lock import is_locked

DAY = 86_400.0


@dataclass(frozen=True)
class Item:
    """Something that may be dropped; `keep` says why it is not, "" if it may go."""

    kind: str
    place: str
    size: int
    keep: str


def manifests(artifacts: Iterable[Path]) -> Iterator[Json]:
    """Every manifest below folders of artifacts, ancestors included; one that cannot be read stops everything."""
    for manifest, lineage in _read(artifacts):
        yield manifest
        yield from lineage.values()


def _read(artifacts: Iterable[Path]) -> Iterator[tuple[Json, dict[str, Json]]]:
    """Manifest and lineage of every artifact below some folders."""
    for path in _manifest_files(artifacts):
        try:
            manifest, lineage = read_json(path), read_json(path.with_name("lineage.json"))
            check_manifest(manifest)
            check_lineage(lineage)
        except (OSError, ValueError) as error:
            raise Refused(f"{path}: cannot be read ({error}); what it names is not known, so nothing is dropped") from None
        yield manifest, lineage


def _manifest_files(artifacts: Iterable[Path]) -> Iterator[Path]:
    """Folders that are links are walked too (phases on another disk); each folder once, so that a circle of links ends."""
    seen: set[str] = set()
    for root in artifacts:
        if not root.is_dir():
            raise Refused(f"{root}: there is no such folder; expected one with artifacts in it")
        for folder, below, files in os.walk(root, followlinks=True):
            below[:] = sorted(name for name in below if not name.startswith("."))
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
            elif "manifest.json" in files:
                yield Path(folder) / "manifest.json"
            seen.add(real)


def cached(root: Path) -> Iterator[Json]:
    """Manifests that DVC's cache of a checkout holds: artifacts of other branches and experiments; whole ones only."""
    objects = dvc_cache(root) / "files" / "md5"
    for listing in sorted(objects.glob("*/*.dir")):
        try:
            rows = {row["relpath"]: row["md5"] for row in read_json(listing)}
            if "manifest.json" in rows:
                manifest = read_json(objects / rows["manifest.json"][:2] / rows["manifest.json"][2:])
                check_manifest(manifest)
                yield manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of something else that DVC keeps, or collected in part


def named(found: Iterable[Json]) -> tuple[set[str], set[str]]:
    """Digests and file hashes that manifests name."""
    digests: set[str] = set()
    hashes: set[str] = set()
    for manifest in found:
        digests |= {manifest["digest"], *(p["digest"] for p in manifest["parents"])}
        hashes |= {*manifest["files"].values(), *(row["sha256"] for row in manifest["external"])}
    return digests, hashes


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def age_of(path: Path) -> float:
    """Seconds since the newest change below a path."""
    newest = max((p.lstat().st_mtime for p in [path, *path.rglob("*")] if p.exists()), default=0.0)
    return time.time() - newest


def local_items(artifacts: Path, days: float, *, unfinished: bool = False) -> list[Item]:
    """What lies beside the artifacts on this machine; `unfinished`: states of steps that are not done may go."""
    here = list(_read([artifacts]))
    digests, hashes = named(m for manifest, lineage in here for m in (manifest, *lineage.values()))
    elsewhere = [m["digest"] for m in cached(artifacts.absolute().parent)]
    beats = heartbeat.read_all(artifacts)
    alive = {b["digest"] for b in beats if b["alive"]}
    newest = {(b["step"], b["name"]): b["digest"] for b in beats}
    # Done is what is here: one that only a lineage names was deleted or damaged, and is being made again.
    done = {*(manifest["digest"] for manifest, _ in here), *elsewhere}
    found = [*_states(artifacts, done, alive, set(newest.values()), days, unfinished=unfinished)]
    reasons = dict.fromkeys(elsewhere, "of an artifact in DVC's cache") | dict.fromkeys(digests, "of an artifact that is here")
    reasons |= dict.fromkeys(newest.values(), "of the last run of a stage") | dict.fromkeys(alive, "running")
    found += [
        Item("run records", str(folder), size_of(folder), reasons.get(folder.name) or _young(folder, days))
        for folder in _below(artifacts / ".runs")
    ]
    views = sorted((artifacts / ".cache").glob("view.*"))
    linked = {p.readlink().name for view in views for p in view.rglob("*") if p.is_symlink()}
    for path in sorted((artifacts / ".cache" / "objects").glob("*/*")):
        keep = "named by a manifest" if path.name in hashes else "read by a process" if path.name in linked else ""
        found.append(Item("fetched objects", str(path), size_of(path), keep or _busy(alive) or _young(path, days)))
    for path in views:  # also of commands that are no step: forget, lineage, evaluate
        found.append(Item("left by killed steps", str(path), size_of(path), _busy(alive) or _young(path, days)))
    return [*found, *_left_behind(artifacts, {int(b["pid"]) for b in beats if b["alive"]})]


def _busy(alive: set[str]) -> str:
    return "a step is running" if alive else ""


def _states(
    artifacts: Path, done: set[str], alive: set[str], newest: set[str], days: float, *, unfinished: bool
) -> Iterator[Item]:
    for folder in _below(artifacts / ".resume"):
        if folder.suffix == ".lock" or not folder.is_dir():
            continue
        digest = folder.name
        if digest in alive or is_locked(folder):
            keep = "running"
        elif digest in newest:  # its last run did not end well, whatever an older one has left
            keep = "the next run goes on from it"
        elif digest in done:
            keep = ""
        else:
            keep = _young(folder, days) or ("" if unfinished else "not finished (--unfinished drops it)")
        yield Item("resume state", str(folder), size_of(folder), keep)


def _left_behind(artifacts: Path, alive: set[int]) -> Iterator[Item]:
    """Unfinished siblings of artifacts whose process of this machine is gone."""
    places = [artifacts, *(p for p in artifacts.glob("*") if p.is_dir() and not p.name.startswith("."))]
    for path in (p for place in places for p in sorted(place.glob(".tmp.*"))):
        host, _, pid = path.name.rpartition(".")
        mine = host.endswith(f".{platform.node()}") and pid.isdigit()
        if not mine:
            keep = "of another machine"
        else:
            keep = "its process lives" if int(pid) in alive or _lives(int(pid)) else ""
        yield Item("left by killed steps", str(path), size_of(path), keep)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if not p.name.startswith(".")) if folder.is_dir() else []


def _young(path: Path, days: float) -> str:
    return f"younger than {days:g} days" if age_of(path) < days * DAY else ""


def dvc_cache(root: Path) -> Path:
    """DVC's cache of a checkout: `.dvc/cache`, or where its configuration puts it."""
    folder = root / ".dvc"
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read([folder / "config", folder / "config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Refused(f"{folder / 'config'}: cannot be read ({' '.join(str(error).split())}); nothing is dropped") from None
    return folder / settings.get("cache", "dir", fallback="cache")
