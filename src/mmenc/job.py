"""Runs one step: reads and verifies its inputs, computes the digest, and seals what the step's function wrote.

A step's function takes a `Job` and returns its facts. It writes into `job.out` (a temporary directory that becomes the
artifact), and may keep resume state in `job.resume` and timings in `job.measured`; it knows nothing of who runs it.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import platform
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version as package_version
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, cast

from mmenc.artifact import Artifact, Json, Manifest, Request, atomic_directory, seal, sha256_file, write_json
from mmenc.errors import Refused, Stopped, nearest
from mmenc.recipe import Recipe
from mmenc.steps import Step, artifacts_root


@dataclass
class Job:
    """What a step's function gets."""

    step: Step
    name: str
    recipe: Recipe
    inputs: Mapping[str, Artifact]
    """Artifacts by role; instances of a `ROLE*` have the roles `ROLE:NAME`, for merge `base` and `branch:NAME`."""
    raw: Mapping[str, Path]
    """Plain directories that the step reads, by role or by the parameter that names them."""
    raw_files: list[Json]
    """`[{path, sha256}]` of the raw inputs, path relative to its root."""
    out: Path
    resume: Path
    """Folder for resume state; create it when needed. It is removed when the step has succeeded."""
    request: Request
    measured: Json = field(default_factory=dict)
    """Speed, memory, curves with time: goes to `.runs/<digest>/run.json`, never into the artifact."""
    external: list[Json] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Print one plain line for the person who waits."""
        print(f"  {text}", flush=True)


class _Declared:
    """A recipe that shows a step only the sections that it declares: an undeclared read would escape the digest."""

    def __init__(self, recipe: Recipe, step: Step) -> None:
        self._recipe = recipe
        self._sections = {path.split(".")[0] for path in step.params} | {"compute"}
        self._step = step.name

    def __getattr__(self, section: str) -> Any:
        known = {"validation": "validate", "ancestors": "phases"}.get(section, section)
        if known in self._sections:
            return getattr(self._recipe, section)
        raise AssertionError(f"step {self._step} reads recipe.{section}, which steps.TABLE does not declare")


def _expand(step: Step, recipe: Recipe, dirs: Mapping[str, Path]) -> dict[str, Path]:
    """Turn `ROLE=FOLDER` of a role that reads several instances into one entry per instance."""
    found: dict[str, Path] = {}
    for role in step.reads:
        plain = role.rstrip("*")
        if plain not in dirs:
            expected = " ".join(r.rstrip("*") + "=DIR" for r in step.reads)
            raise Refused(f"{step.name}: role {plain} is missing; expected {expected}")
        if not role.endswith("*"):
            found[plain] = dirs[plain]
        elif step.name == "merge":
            found["base"] = dirs[plain] / recipe.merge.base
            found |= {f"branch:{b}": dirs[plain] / b for b in recipe.merge.branches}
        else:
            found |= {f"{plain}:{n}": dirs[plain] / n for n in [*recipe.phases, "merge"]}
    unknown = set(dirs) - {r.rstrip("*") for r in step.reads} - set(step.raw)
    if unknown:
        raise Refused(f"{step.name}: it reads no role {min(unknown)!r}; its roles: {', '.join([*step.reads, *step.raw])}")
    return found


def hash_raw(step: Step, dirs: Mapping[str, Path], folders: Sequence[str] | None = None) -> list[Json]:
    """`[{path, sha256}]` of every file under the raw inputs (below `folders`, if given), sorted by path."""
    rows: list[Json] = []
    for role in step.raw:
        root = dirs.get(role)
        if root is None:
            raise Refused(f"{step.name}: role {role} is missing; expected {role}=DIR")
        if not root.is_dir():
            raise Refused(f"{root}: no such directory; expected one folder per language, such as {root}/eng_Latn")
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


def execute(step: Step, name: str, recipe: Recipe, out: Path, dirs: Mapping[str, Path]) -> Manifest:
    """Run a step (or leave its artifact as it is when it already is what is asked for) and return the manifest."""
    known = [*recipe.phases, "merge"] if step.name == "evaluate" else list(recipe.phases)
    if step.instances and name not in known:
        raise Refused(f"{step.name}: no instance is called {name!r}; the recipe has {', '.join(known)}")
    if not step.instances and name:
        raise Refused(f"{step.name}: takes no --name")
    paths = _expand(step, recipe, dirs)
    inputs = {role: Artifact.read(path) for role, path in paths.items()}
    chosen = recipe.ingest.languages
    raw_files = hash_raw(step, dirs, None if chosen == "all" else chosen)
    request = Request(
        step=step.name,
        name=name,
        version=step.version,
        config={path: recipe.value(path) for path in step.param_paths(name)},
        parents=tuple(artifact.parent(role) for role, artifact in inputs.items()),
        inputs=tuple(raw_files),
    )
    raw = {r: dirs[r] for r in step.raw}
    if step.source and (folder := recipe.value(step.source)) not in ("random", "train"):
        raw[step.source] = Path(folder)
        request = replace(request, inputs=(*request.inputs, *hash_source(step, Path(folder))))
    label = f"{step.name} {name}".strip()
    if (done := _already(out, request)) is not None:
        print(f"{label}: up to date ({request.digest[:12]})", flush=True)
        return done
    root = artifacts_root(step, out)
    resume = root / ".resume" / request.digest
    started = time.time()
    print(f"{label}: {request.digest[:12]} -> {out}", flush=True)
    module, _, function = step.function.partition(":")
    with signals(), _lock(resume), disk_errors(out):
        with atomic_directory(out) as work:
            job = Job(step, name, cast("Recipe", _Declared(recipe, step)), inputs, raw, raw_files, work, resume, request)
            facts = getattr(importlib.import_module(module), function)(job)
            manifest = seal(work, request, list(inputs.values()), facts, job.external)
        _run_record(root / ".runs" / request.digest, job, manifest, started, recipe)
        shutil.rmtree(resume, ignore_errors=True)
    return manifest


def _already(out: Path, request: Request) -> Manifest | None:
    if not (out / "manifest.json").is_file():
        return None
    try:
        artifact = Artifact.read(out)
    except Refused:
        return None
    same = artifact.manifest.digest == request.digest
    parents = sorted(artifact.manifest.parents, key=lambda p: p.role) == sorted(request.parents, key=lambda p: p.role)
    return artifact.manifest if same and parents else None


@contextmanager
def _lock(resume: Path) -> Iterator[None]:
    """One writer per digest at a time; the lock dies with its process."""
    resume.parent.mkdir(parents=True, exist_ok=True)
    path = resume.with_suffix(".lock")
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise Refused(
                f"{resume}: process {handle.read().strip() or '?'} is already running this step; wait or stop it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
        path.unlink(missing_ok=True)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = error.filename or out
            raise Refused(f"{where}: no space left on the device; nothing was changed, free some and run again") from None
        raise


class Interrupt(BaseException):
    """Raised by a signal outside of training, where no state needs saving; no library's `except Exception` may eat it."""


stop_requested = False
"""Set by SIGTERM and SIGINT; the training loop looks at it after each step, saves its state and raises Stopped."""
graceful = False
"""While True (inside the training loop) a signal only sets `stop_requested`."""


@contextmanager
def signals() -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C: leave nothing half-written, exit with 75."""
    global stop_requested
    stop_requested = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        global stop_requested
        stop_requested = True
        if not graceful:
            raise Interrupt

    old = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Interrupt:
        raise Stopped("stopped by a signal; nothing half-written is left, run the same command again") from None
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def _git_revision() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return ""
    return done.stdout.strip()


def _run_record(folder: Path, job: Job, manifest: Manifest, started: float, recipe: Recipe) -> None:
    """Write what differs between two equal runs: when, where, how fast."""
    packages = ("mmenc", "torch", "transformers", "tokenizers", "numpy", "zstandard", "great_expectations")
    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = package_version(name)
        except ModuleNotFoundError:
            continue
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    record = {
        "step": manifest.step,
        "name": manifest.name,
        "digest": manifest.digest,
        "content": manifest.content,
        "started": started,
        "seconds": time.time() - started,
        "host": platform.node(),
        "user": os.environ.get("USER", ""),
        "git_revision": _git_revision(),
        "versions": versions,
        "peak_memory_bytes": peak * 1024,
        "compute": recipe.value("compute"),
        "measured": job.measured,
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".tmp.run.{os.getpid()}"
    write_json(partial, record)
    partial.rename(folder / "run.json")
