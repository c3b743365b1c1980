"""Raw data that lies in a bucket: a pointer names its objects and their versions, a step fetches exactly those.

Decision: a pointer is a small JSON file `{schema, base, dvc, objects: [{path, version, bytes}]}`, written by `mmenc point`
from a bucket or from a `data.dvc` that was pushed to a version-aware DVC remote (files keep their names there; a normal remote is
content-addressed, so a pod could not read it). It travels through Kubeflow in place of the bytes. An object's version stands
in the manifest where a local file has its sha256; without versioning in the bucket the ETag stands in for it.
"""

from __future__ import annotations

import configparser
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from mmenc.artifact import Json, sha256_file, sha256_json, write_json
from mmenc.errors import Refused, nearest
from mmenc.store import PATIENCE, Store, is_remote

if TYPE_CHECKING:
    from mmenc.recipe import Recipe
    from mmenc.steps import Step

Places = Mapping[str, Path | str]
"""Directories by role; raw data may also be a pointer to a bucket's objects, or the bucket's address."""
SOURCE = "source"
"""Role of a released model that is taken over, where it does not lie at the path that the recipe names."""


def read_pointer(place: str, patience: float = PATIENCE) -> Json:
    """Objects behind a pointer file (local or remote), a `.dvc` file, or a bucket's folder (its newest versions)."""
    if place.endswith(".dvc"):
        return _from_dvc(Path(place))
    if not is_remote(place):
        try:
            return _checked(Path(place).read_text(encoding="utf-8"), place)
        except OSError as error:
            raise Refused(f"{place}: cannot be read ({error.strerror}); expected a pointer, a .dvc file or s3://…") from None
    if place.endswith(".json"):
        folder, _, name = place.rpartition("/")
        found, _ = Store(folder, patience).read_json(name)
        if found is None:
            raise Refused(f"{place}: there is no such object; `mmenc point` writes it")
        return _checked(json.dumps(found), place)
    return _from_bucket(place, patience)


def _checked(text: str, place: str) -> Json:
    try:
        pointer: Json = json.loads(text)
        rows = [(o["path"], o["version"], o["bytes"]) for o in pointer["objects"]]
        if pointer["schema"] != 1 or not str(pointer["base"]) or not rows:
            raise ValueError("schema 1, a base and at least one object are expected")
        if out := next((p for p, _, _ in rows if p.startswith("/") or ".." in p.split("/")), None):
            raise ValueError(f"{out!r} leads out of the data")
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{place}: not a pointer to raw data ({error}); `mmenc point` writes one") from None
    return pointer


def _from_bucket(place: str, patience: float) -> Json:
    store = Store(place, patience, versions=True)

    def rows() -> list[Json]:
        found = store.fs.find(store.root, detail=True)
        return [_row(path.removeprefix(f"{store.root}/"), info) for path, info in sorted(found.items())]

    # A name that ends in a slash is a folder's marker, as the S3 console makes them.
    found = [row for row in store.attempt(rows) if not row["path"].endswith("/")]
    objects = [row for row in found if not any(part.startswith(".") for part in row["path"].split("/"))]
    if not objects:
        raise Refused(f"{place}: holds no objects; expected one folder per language, such as {place}/eng_Latn")
    return {"schema": 1, "base": store.url, "dvc": "", "objects": objects}


def _row(path: str, info: Json) -> Json:
    version = info.get("VersionId") or ""
    version = version if version not in ("", "null") else "etag:" + str(info["ETag"]).strip('"')
    return {"path": path, "version": version, "bytes": int(info["size"])}


def _from_dvc(pointer: Path) -> Json:
    """Objects of a `data.dvc` after `dvc push` to a version-aware remote."""
    try:
        out = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]
    except FileNotFoundError:
        raise Refused(f"{pointer}: there is no such file; `dvc add` makes it") from None
    except (OSError, KeyError, IndexError, TypeError, yaml.YAMLError) as error:
        raise Refused(f"{pointer}: not a DVC file ({error})") from None
    remotes = _remotes(pointer.parent)
    objects, base = [], ""
    for item in out.get("files", []):
        for remote, cloud in item.get("cloud", {}).items():
            if remote not in remotes:
                raise Refused(f"{pointer}: was pushed to the remote {remote!r}, which .dvc/config does not have")
            base = base or remotes[remote].rstrip("/")
            objects.append({"path": item["relpath"], "version": cloud["version_id"], "bytes": item["size"]})
            break
    if not objects:
        raise Refused(
            f"{pointer}: names no object versions; make the remote version-aware (`dvc remote modify NAME version_aware true`, "
            f"in a bucket with versioning) and `dvc push`, or give the bucket's folder instead"
        )
    return {"schema": 1, "base": f"{base}/{out['path']}", "dvc": str(out.get("md5", "")), "objects": objects}


def _remotes(root: Path) -> dict[str, str]:
    """URLs of DVC's remotes by name, from .dvc/config and .dvc/config.local."""
    found: dict[str, str] = {}
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser()
        parser.read(root / ".dvc" / name, encoding="utf-8")
        for section in parser.sections():
            kind, _, remote = section.strip("'").partition(" ")
            if kind == "remote" and "url" in parser[section]:
                found[remote.strip('"')] = parser[section]["url"]
    return found


def write_pointer(source: str, target: str, patience: float = PATIENCE) -> tuple[str, int]:
    """Write the pointer to a bucket's folder or a pushed `.dvc` file; return its address and the number of objects.

    In a folder (`target` ends in a slash) its name is its hash: an equal address is equal data, as Kubeflow's cache takes it.
    """
    if not target.endswith((".json", "/")):
        raise Refused(f"{target}: expected a folder (with a slash at its end), or a name that ends in .json")
    pointer = read_pointer(source, patience)
    target += f"{sha256_json(pointer)[:16]}.json" if target.endswith("/") else ""
    if is_remote(target):
        folder, _, name = target.rpartition("/")
        Store(folder, patience).put_json(name, pointer)
    else:
        write_json(Path(target), pointer)
    return target, len(pointer["objects"])


def hash_raw(step: Step, dirs: Mapping[str, Path], folders: Sequence[str] | None = None) -> list[Json]:
    """`[{path, sha256}]` of every file under the raw inputs (below `folders`, if given), sorted by path."""
    rows: list[Json] = []
    for role in step.raw:
        root = dirs.get(role)
        if root is None:
            raise Refused(f"{step.name}: role {role} is missing; expected {role}=DIR")
        if not root.is_dir():
            raise Refused(f"{root}: no such directory; expected one folder per language, such as {root}/eng_Latn")
        if not os.access(root, os.R_OK | os.X_OK):
            raise Refused(f"{root}: cannot be read by this user (uid {os.getuid()}); make it readable")
        roots = [root / f for f in folders] if folders else [root]
        missing = next((r for r in roots if not r.is_dir()), None)
        if missing:
            raise Refused(f"{missing}: no such directory{nearest(missing.name, [p.name for p in root.iterdir()])}")
        for path in sorted(p for r in roots for p in r.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if not path.resolve().is_relative_to(root.resolve()) and path.is_symlink() and ".dvc" not in path.resolve().parts:
                raise Refused(f"{path}: is a link that leaves the folder {root}")
            rows.append({"path": PurePosixPath(path.relative_to(root)).as_posix(), "sha256": sha256_file(path)})
        if not rows:
            raise Refused(f"{root}: holds no files; expected one folder per language, such as {root}/eng_Latn")
    return sorted(rows, key=lambda r: str(r["path"]))


def hash_source(step: Step, folder: Path) -> list[Json]:
    """`[{path, sha256}]` of what a step reads of a released model."""
    found = [name for name in step.source_files if (folder / name).is_file()]
    if not found:
        raise Refused(f"{step.source}: {str(folder)!r} has none of {', '.join(step.source_files)}; expected a released model")
    return [{"path": name, "sha256": sha256_file(folder / name)} for name in found]


class Raw:
    """Raw data behind a pointer: its rows for the manifest at once, its bytes when the step really runs."""

    def __init__(self, place: str, cache: Path, patience: float = PATIENCE, folders: Sequence[str] | None = None) -> None:
        self.pointer = read_pointer(place, patience)
        objects: list[Json] = self.pointer["objects"]
        present = {o["path"].partition("/")[0] for o in objects}
        if missing := next((f for f in folders or () if f not in present), None):
            raise Refused(f"{place}: has no folder {missing}{nearest(missing, present)}")
        self.objects = sorted((o for o in objects if not folders or o["path"].partition("/")[0] in folders), key=_path)
        self.store = Store(self.pointer["base"], patience, versions=True)
        self.cache = cache

    def inputs(self) -> list[Json]:
        """`[{path, version}]` for the manifest."""
        return [{"path": o["path"], "version": o["version"]} for o in self.objects]

    def fetch(self) -> Path:
        """Bring every object here in the version that the pointer names; what is here already stays."""
        folder = self.cache / "raw" / sha256_json([self.pointer["base"], self.inputs()])[:16]

        def bring(item: Json) -> None:
            target = folder / item["path"]
            if target.is_file() and target.stat().st_size == item["bytes"]:
                return
            self._bring(item, target)

        self.store.each(bring, self.objects)
        return folder

    def _bring(self, item: Json, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        uri = f"{self.pointer['base']}/{item['path']}"
        versioned = not item["version"].startswith("etag:")
        key = item["path"] + (f"?versionId={item['version']}" if versioned and self.store.s3 else "")
        with tempfile.TemporaryDirectory(prefix=".tmp.", dir=target.parent) as place:
            partial = Path(place) / "object"
            try:
                self.store.fetch(key, partial)
                # Asked afterwards: what is replaced while it is fetched must not pass for what the pointer names.
                if not versioned and _row("", self._info(key))["version"] != item["version"]:
                    raise Refused(f"{uri}: was changed since the pointer was written; run `mmenc point` again")
            except FileNotFoundError:
                raise Refused(f"{uri}: version {item['version']} is gone from the bucket; run `mmenc point` again") from None
            if (found := partial.stat().st_size) != item["bytes"]:
                raise Refused(f"{uri}: has {found} bytes, the pointer says {item['bytes']}; run `mmenc point` again")
            partial.rename(target)

    def _info(self, key: str) -> Any:
        return self.store.attempt(lambda: self.store.fs.info(self.store.path(key)))


def _path(item: Json) -> str:
    return str(item["path"])


def raw_inputs(step: Step, recipe: Recipe, dirs: Places, cache: Path) -> tuple[dict[str, Path | Raw], list[Json]]:
    """Where the plain inputs of a step are, and their rows for the manifest."""
    places: dict[str, Path | Raw] = {}
    rows: list[Json] = []
    chosen = None if recipe.ingest.languages == "all" else recipe.ingest.languages
    for role in step.raw:
        place = dirs.get(role)
        if place is not None and (is_remote(place) or Path(place).is_file()):
            raw = Raw(str(place), cache, recipe.compute.store_patience, chosen)
            places[role], rows = raw, rows + raw.inputs()
        else:
            rows += hash_raw(step, {k: Path(v) for k, v in dirs.items()}, chosen)
            places[role] = Path(dirs[role])
    if step.source and (named := recipe.value(step.source)) not in ("random", "train"):
        folder = Path(dirs.get(SOURCE, named))
        places[step.source], rows = folder, rows + hash_source(step, folder)
    return places, rows
