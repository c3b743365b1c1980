"""Raw data that lies in a bucket: a pointer names its objects and their versions, a step fetches exactly those.

Decision: a pointer is a small JSON file `{schema, base, dvc, objects: [{path, version, bytes}]}`, written by `mmenc point`
from a bucket or from a `data.dvc` that was pushed to a version-aware DVC remote (files keep their names there; a normal remote is
content-addressed, so a pod could not read it). It travels through Kubeflow in place of the bytes. An object's version stands
in the manifest where a local file has its sha256; without versioning in the bucket the ETag stands in for it.
"""

from __future__ import annotations

import configparser
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmenc.artifact import Json, sha256_file, sha256_json, write_json
from mmenc.errors import Refused, nearest
from mmenc.store import PATIENCE, Store, is_remote

if TYPE_CHECKING:
    from mmenc.data.sources.listing import Listing
    from mmenc.recipe import Recipe
    from mmenc.steps import Step

Places = Mapping[str, Path | str]
"""Directories by role; raw data may also be a pointer to a bucket's objects, or the bucket's address."""
SOURCE = "source"
"""Role of a released model that is taken over, where it does not lie at the path that the recipe names."""
COMPARE, TOKENIZER = "tokenizer.compare", "tokenizer.json"
"""Of a folder that this parameter names only this file counts."""


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


def objects_below(place: str, patience: float = PATIENCE) -> tuple[str, list[Json]]:
    """The address of a bucket's folder, and `{path, version, bytes}` of all objects below it, sorted."""
    store = Store(place, patience, versions=True)

    def rows() -> list[Json]:
        found = store.fs.find(store.root, detail=True)
        return [_row(path.removeprefix(f"{store.root}/"), info) for path, info in sorted(found.items())]

    # A name that ends in a slash is a folder's marker, as the S3 console makes them.
    found = [row for row in store.attempt(rows) if not row["path"].endswith("/")]
    return store.url, [row for row in found if not any(part.startswith(".") for part in row["path"].split("/"))]


def _from_bucket(place: str, patience: float) -> Json:
    url, objects = objects_below(place, patience)
    if not objects:
        raise Refused(f"{place}: holds no objects; expected one folder per language, such as {place}/eng_Latn")
    return {"schema": 1, "base": url, "dvc": "", "objects": objects}


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
    known = remotes(pointer.parent)
    objects, base = [], ""
    for item in out.get("files", []):
        for remote, cloud in item.get("cloud", {}).items():
            if remote not in known:
                raise Refused(f"{pointer}: was pushed to the remote {remote!r}, which .dvc/config does not have")
            base = base or known[remote].rstrip("/")
            objects.append({"path": item["relpath"], "version": cloud["version_id"], "bytes": item["size"]})
            break
    if not objects:
        raise Refused(
            f"{pointer}: names no object versions; make the remote version-aware (`dvc remote modify NAME version_aware true`, "
            f"in a bucket with versioning) and `dvc push`, or give the bucket's folder instead"
        )
    return {"schema": 1, "base": f"{base}/{out['path']}", "dvc": str(out.get("md5", "")), "objects": objects}


def remotes(root: Path) -> dict[str, str]:
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


def hash_source(step: Step, folder: Path) -> list[Json]:
    """`[{path, sha256}]` of what a step reads of a released model."""
    found = [name for name in step.source_files if (folder / name).is_file()]
    if not found:
        raise Refused(f"{step.source}: {str(folder)!r} has none of {', '.join(step.source_files)}; expected a released model")
    return [{"path": name, "sha256": sha256_file(folder / name)} for name in found]


def fetch_source(step: Step, place: str, cache: Path, patience: float) -> Path:
    """What a step reads of a released model in a bucket, fetched anew: another release may lie there since."""
    store, folder = Store(place, patience), cache / "source" / sha256_json(place)[:16]
    for name in step.source_files:
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            store.fetch(name, folder / name)
    return folder


def fetch_object(store: Store, item: Json, target: Path) -> None:
    """Bring one object `{path, version, bytes}` in exactly that version; what comes instead of it is refused."""
    uri = store.uri(item["path"])
    versioned = not item["version"].startswith("etag:")
    key = item["path"] + (f"?versionId={item['version']}" if versioned and store.s3 else "")
    try:
        for last in (False, True):
            store.fetch(key, target)
            # Asked afterwards: what is replaced while it is fetched must not pass for what the pointer names.
            if not versioned and _row("", _info(store, key))["version"] != item["version"]:
                raise Refused(f"{uri}: was changed since the pointer was written; run `mmenc point` again")
            if (found := target.stat().st_size) == item["bytes"]:
                return
            if last:  # a body that ends too early is fetched once more before anybody is blamed
                raise Refused(f"{uri}: has {found} bytes, the pointer says {item['bytes']}; run `mmenc point` again")
    except FileNotFoundError:
        raise Refused(f"{uri}: version {item['version']} is gone from the bucket; run `mmenc point` again") from None


def _info(store: Store, key: str) -> Any:
    return store.attempt(lambda: store.fs.info(store.path(key)))


def raw_inputs(step: Step, recipe: Recipe, dirs: Places, cache: Path) -> tuple[dict[str, Path], list[Json], Listing | None]:
    """Plain directories that a step reads, the rows of all its inputs for the manifest, and what ingest has to read."""
    from mmenc.data.sources.listing import find

    places: dict[str, Path] = {}
    rows: list[Json] = []
    listing = None
    for role in step.raw:
        if (place := dirs.get(role)) is None:
            raise Refused(f"{step.name}: role {role} is missing; expected {role}=DIR")
        listing = find(recipe.ingest, str(place), recipe.compute.store_patience, recipe.compute.threads)
        places[role], rows = listing.root, rows + listing.rows
    if step.source and SOURCE in dirs and not recipe.value(step.source):
        raise Refused(
            f"{step.name}: role {SOURCE} is given and {step.source} is empty; name the release there, or leave {SOURCE} out"
        )
    if step.source and (named := recipe.value(step.source)) not in ("random", "train", ""):
        place = dirs.get(SOURCE, named)
        folder = fetch_source(step, str(place), cache, recipe.compute.store_patience) if is_remote(place) else Path(place)
        places[step.source], rows = folder, rows + hash_source(step, folder)
    for parameter in step.files:
        if named := recipe.value(parameter):
            places[parameter], found = named_input(parameter, str(named), cache, recipe.compute.store_patience)
            rows += found
    return places, rows, listing


def named_input(parameter: str, place: str, cache: Path, patience: float) -> tuple[Path, list[Json]]:
    """A file or folder that a parameter names, here or in a bucket; its rows begin with the parameter."""
    if is_remote(place):
        alone = _single(place, patience)
        pointer: Json = {"base": place.rpartition("/")[0], "objects": [alone]} if alone else read_pointer(place, patience)
        if parameter == COMPARE and not alone:
            pointer["objects"] = [o for o in pointer["objects"] if o["path"] == TOKENIZER]
            if not pointer["objects"]:
                raise Refused(f"{parameter}: {place} has no {TOKENIZER}; expected such a file or a folder with one")
        rows = [{"path": f"{parameter}/{o['path']}", "version": o["version"]} for o in pointer["objects"]]
        root, store = cache / "named" / sha256_json([pointer["base"], rows])[:16], Store(pointer["base"], patience, versions=True)
        for item in pointer["objects"]:
            target = root / item["path"]
            if not target.is_file() or target.stat().st_size != item["bytes"]:
                fetch_object(store, item, target)
        return root / pointer["objects"][0]["path"] if alone or parameter == COMPARE else root, rows
    root = Path(place)
    if parameter == COMPARE and root.is_dir():
        root /= TOKENIZER
    if not root.exists():
        hint = nearest(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise Refused(
            f"{parameter}: there is no {str(root)!r}{hint}; expected a file or folder that this machine can read, or s3://…"
        )
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise Refused(f"{parameter}: {place!r} holds no files")
    base = root.parent if root.is_file() else root
    try:
        return root, [{"path": f"{parameter}/{p.relative_to(base).as_posix()}", "sha256": sha256_file(p)} for p in files]
    except OSError as error:
        raise Refused(f"{parameter}: {error.filename} cannot be read ({error.strerror}); make it readable") from None


def _single(place: str, patience: float) -> Json | None:
    """The row of an address that is one object itself; None for a folder, and for a pointer, which names others."""
    folder, _, name = place.rpartition("/")
    if not name or folder.endswith("/"):
        return None
    store = Store(folder, patience, versions=True)
    try:
        info = _info(store, name)
    except FileNotFoundError:
        return None
    if info["type"] != "file":
        return None
    found = store.read_json(name)[0] if name.endswith(".json") else None
    return None if isinstance(found, dict) and {"schema", "base", "objects"} <= found.keys() else _row(name, info)
