"""An artifact is a directory with a manifest; it appears whole or not at all, and says who its ancestors are.

`digest` names what was asked for (known before the step runs), `content` what came out; both are sha256 of RFC 8785
JSON. The manifest holds nothing that changes between two equal runs (no time, host, user, path): such facts go to
`.runs/`. Layout and keys are fixed by the contract, schema 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import rfc8785

from mmenc.errors import Refused
from mmenc.form import check_lineage, check_manifest

if TYPE_CHECKING:
    from mmenc.external import Cache

SCHEMA = 1
OWN_FILES = ("manifest.json", "lineage.json")
Json = dict[str, Any]


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of the RFC 8785 (canonical) JSON of a value."""
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


@dataclass(frozen=True)
class Parent:
    """One input artifact of a step: its role and both of its hashes."""

    role: str
    digest: str
    content: str


@dataclass(frozen=True)
class Request:
    """What is asked of a step; its digest is known before the step runs."""

    step: str
    name: str
    version: int
    config: Json
    parents: tuple[Parent, ...]
    inputs: tuple[Json, ...] = ()

    @property
    def digest(self) -> str:
        """Sha256 over step, name, version, config, the parents' digests and the inputs."""
        parents = [{"role": p.role, "digest": p.digest} for p in sorted(self.parents, key=lambda p: p.role)]
        return sha256_json(
            {
                "step": self.step,
                "name": self.name,
                "version": self.version,
                "config": self.config,
                "parents": parents,
                "inputs": list(self.inputs),
            }
        )


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`, schema 1 (contract)."""

    step: str
    name: str
    version: int
    config: Json
    parents: list[Parent]
    inputs: list[Json]
    facts: Json
    files: dict[str, str]
    external: list[Json]
    digest: str
    content: str
    schema: int = SCHEMA

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read and check the form of a manifest; Refused names what is wrong with it."""
        path = directory / "manifest.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            check_manifest(raw)
            raw["parents"] = [Parent(**p) for p in raw["parents"]]
            manifest = cls(**raw)
        except FileNotFoundError:
            what = "no such directory" if not directory.is_dir() else "no manifest.json in it"
            raise Refused(f"{directory}: {what}; expected a finished artifact") from None
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(f"{path}: not a manifest of schema {SCHEMA} ({error})") from None
        if manifest.schema != SCHEMA:
            raise Refused(f"{path}: schema {manifest.schema}, this mmenc reads schema {SCHEMA}")
        return manifest

    def json(self) -> Json:
        """The manifest as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest
    lineage: dict[str, Json] = field(repr=False)
    """Manifests of all ancestors, by digest."""
    cache: Cache | None = field(default=None, repr=False)
    """Where files that the store owns are fetched to."""

    @classmethod
    def read(cls, path: Path, verify: bool = True, cache: Cache | None = None) -> Artifact:
        """Open an artifact; with `verify` every file in it is compared with its hash (those of the store when fetched)."""
        manifest = Manifest.read(path)
        try:
            lineage: dict[str, Json] = json.loads((path / "lineage.json").read_text(encoding="utf-8"))
            check_lineage(lineage)
        except (FileNotFoundError, ValueError) as error:
            raise Refused(f"{path / 'lineage.json'}: cannot be read ({error})") from None
        artifact = cls(path, manifest, lineage, cache)
        if verify and (broken := next(artifact.broken(), None)):
            raise Refused(f"{path / broken[0]}: {broken[1]}")
        return artifact

    def broken(self) -> Iterator[tuple[str, str]]:
        """Yield (path, reason) for every file that is missing, changed or too many, and for a manifest that lies."""
        m = self.manifest
        for name, expected in m.files.items():
            try:
                found = sha256_file(self.path / name)
            except FileNotFoundError:
                yield name, "is missing, the manifest lists it"
                continue
            if found != expected:
                yield name, f"sha256 is {found[:12]}…, the manifest says {expected[:12]}…: the file was changed or cut"
        for name in payload(self.path):
            if name not in m.files:
                yield name, "is not listed in the manifest"
        if content_of(m.files, m.external) != m.content:
            yield "manifest.json", "content does not follow from files and external"
        request = Request(m.step, m.name, m.version, m.config, tuple(m.parents), tuple(m.inputs))
        if request.digest != m.digest:
            yield "manifest.json", "digest does not follow from config, parents and inputs"

    def local(self, *patterns: str) -> Path:
        """A directory in which the files that match (without patterns: all) can be opened; what the store owns is fetched."""
        if not self.manifest.external:
            return self.path
        if self.cache is None:
            raise Refused(f"{self.path}: some of its files lie in the store; read it through a step")
        return self.cache.view(self.path, self.manifest, patterns)

    def links(self) -> Path:
        """A directory with the names of all files, in which what the store owns cannot be opened before `external.bring`."""
        return self.local("")

    def parent(self, role: str) -> Parent:
        """Return this artifact as a parent in a role."""
        return Parent(role, self.manifest.digest, self.manifest.content)

    @property
    def facts(self) -> Json:
        """Deterministic figures of the step."""
        return self.manifest.facts


def content_of(files: Mapping[str, str], external: Sequence[Json]) -> str:
    """Sha256 of the canonical JSON of {path: sha256} over files and external objects."""
    return sha256_json({**files, **{e["path"]: e["sha256"] for e in external}})


def payload(directory: Path) -> list[str]:
    """Relative posix paths of all payload files, sorted."""
    return sorted(
        name
        for p in directory.rglob("*")
        if p.is_file() and (name := PurePosixPath(p.relative_to(directory)).as_posix()) not in OWN_FILES
    )


def merge_lineage(parents: Sequence[Artifact]) -> dict[str, Json]:
    """Manifests of the parents and of all their ancestors; refuses one digest with two contents."""
    nodes: dict[str, Json] = {}
    for artifact in parents:
        for digest, node in {**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}.items():
            other = nodes.setdefault(digest, node)
            if other["content"] != node["content"]:
                raise Refused(
                    f"{artifact.path}: two different results of {node['step']} {node['name']} (digest {digest[:12]}…) are "
                    f"among the ancestors; run `make run` again so that everything descends from one of them"
                )
    return dict(sorted(nodes.items()))


def temporary(directory: Path, name: str) -> Path:
    """A sibling for work that is not finished; its name says whose it is: machine (or container) and process."""
    return directory / f".tmp.{name}.{platform.node()}.{os.getpid()}"


def clear_stale(directory: Path) -> None:
    """Remove what a killed process of this machine left; of another machine's nobody here can tell whether it is alive."""
    for left in directory.glob(f".tmp.*.{platform.node()}.*"):
        pid = left.name.rsplit(".", 1)[-1]
        if not (pid.isdigit() and (Path("/proc") / pid).exists() and int(pid) != os.getpid()):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def atomic_directory(out: Path, *, clear: bool = True) -> Iterator[Path]:
    """Give a temporary sibling of `out`; on success it takes the place of `out` in one rename, otherwise it is gone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if clear:
        clear_stale(out.parent)
    work = temporary(out.parent, out.name)
    work.mkdir()
    try:
        yield work
        _sync(work)
        if out.exists():
            old = temporary(out.parent, f"old-{out.name}")
            out.rename(old)
            work.rename(out)
            shutil.rmtree(old)
        else:
            work.rename(out)
        _sync_directory(out.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Many at a time: the disk takes them together, and 2,000 languages are 4,000 small files."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(min(32, len(files) or 1)) as pool:
        list(pool.map(_sync_file, files))


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(work: Path, request: Request, parents: Sequence[Artifact], facts: Json, external: Sequence[Json] = ()) -> Manifest:
    """Write manifest.json and lineage.json into a filled directory."""
    files = {name: sha256_file(work / name) for name in payload(work)}
    ordered = sorted(external, key=lambda e: str(e["path"]))
    manifest = Manifest(
        step=request.step,
        name=request.name,
        version=request.version,
        config=request.config,
        parents=sorted(request.parents, key=lambda p: p.role),
        inputs=list(request.inputs),
        facts=facts,
        files=files,
        external=list(ordered),
        digest=request.digest,
        content=content_of(files, ordered),
    )
    write_json(work / "lineage.json", merge_lineage(parents))
    write_json(work / "manifest.json", manifest.json())
    return manifest


def replace_json(path: Path, value: Any) -> None:
    """Write JSON in one rename: others may read the folder meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path.parent, path.stem)
    write_json(partial, value)
    partial.rename(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of an artifact."""
    return json.loads(path.read_text(encoding="utf-8"))
