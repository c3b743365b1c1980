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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType
from typing import Any, cast

from mmenc.artifact import Artifact, Json, Manifest, Request, atomic_directory, seal, temporary, write_json
from mmenc.errors import Refused, Stopped
from mmenc.external import Cache, give, keep_record, recall, remember
from mmenc.raw import SOURCE, Places, Raw, raw_inputs
from mmenc.recipe import Recipe
from mmenc.resume import Mirror
from mmenc.steps import Step, artifacts_root
from mmenc.store import Store


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
    """`[{path, sha256}]` of the raw inputs (`version` for objects of a bucket), path relative to its root."""
    out: Path
    resume: Path
    """Folder for resume state; create it when needed. It is removed when the step has succeeded."""
    request: Request
    measured: Json = field(default_factory=dict)
    """Speed, memory, curves with time: goes to `.runs/<digest>/run.json`, never into the artifact."""
    mirror: Mirror | None = None

    def saved(self) -> None:
        """Called when resume state has been written: the store, if there is one, gets it too."""
        if self.mirror:
            self.mirror.save(last=stop_requested)

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
    unknown = set(dirs) - {r.rstrip("*") for r in step.reads} - set(step.raw) - ({SOURCE} if step.source else set())
    if unknown:
        raise Refused(f"{step.name}: it reads no role {min(unknown)!r}; its roles: {', '.join([*step.reads, *step.raw])}")
    return found


def execute(step: Step, name: str, recipe: Recipe, out: Path, dirs: Places) -> Manifest:
    """Run a step (or leave its artifact as it is when it already is what is asked for) and return the manifest."""
    known = [*recipe.phases, "merge"] if step.name == "evaluate" else list(recipe.phases)
    if step.instances and name not in known:
        raise Refused(f"{step.name}: no instance is called {name!r}; the recipe has {', '.join(known)}")
    if not step.instances and name:
        raise Refused(f"{step.name}: takes no --name")
    root = artifacts_root(step, out)
    cache = Cache(root / ".cache", recipe.compute.store_patience)
    try:
        with signals(), disk_errors(out):
            roles = {k: Path(v) for k, v in dirs.items()}
            inputs = {role: Artifact.read(path, cache=cache) for role, path in _expand(step, recipe, roles).items()}
            raw, raw_files = raw_inputs(step, recipe, dirs, cache.folder)
            request = Request(
                step=step.name,
                name=name,
                version=step.version,
                config={path: recipe.value(path) for path in step.param_paths(name)},
                parents=tuple(artifact.parent(role) for role, artifact in inputs.items()),
                inputs=tuple(raw_files),
            )
            if (done := _already(out, request)) is not None:
                print(f"{step.name} {name}".strip() + f": up to date ({request.digest[:12]})", flush=True)
                return done
            store = Store(recipe.compute.store, recipe.compute.store_patience) if recipe.compute.store else None
            resume = root / ".resume" / request.digest
            declared = cast("Recipe", _Declared(recipe, step))
            job = Job(step, name, declared, inputs, {}, raw_files, out, resume, request)
            return _make(job, raw, recipe, out, root, store, cache)
    finally:
        cache.close()


def _make(
    job: Job, raw: Mapping[str, Path | Raw], recipe: Recipe, out: Path, root: Path, store: Store | None, cache: Cache
) -> Manifest:
    """Take the finished artifact from the store, or run the step's function and seal what it wrote."""
    step, request, started = job.step, job.request, time.time()
    print(f"{step.name} {job.name}".strip() + f": {request.digest[:12]} -> {out}", flush=True)
    module, _, function = step.function.partition(":")
    with _lock(job.resume):
        record = None
        # Also where the result is taken from the store: a lost pod may have left its state there.
        job.mirror = Mirror(store, request, job.resume) if store else None
        with atomic_directory(out) as work:
            if store and recall(store, request, work):
                manifest = Manifest.read(work)
                job.say(f"taken from {store.url}, where it was finished before")
                record, _ = store.read_json(f"runs/{request.digest}/run.json")
            else:
                if job.mirror:
                    job.mirror.restore()
                job.raw = {k: v.fetch() if isinstance(v, Raw) else v for k, v in raw.items()}
                job.out = work
                facts = getattr(importlib.import_module(module), function)(job)
                external = give(work, step.large, store, cache) if store else []
                manifest = seal(work, request, list(job.inputs.values()), facts, external)
                if store:
                    remember(store, work, manifest)
        _write_record(root / ".runs" / request.digest, record or _run_record(job, manifest, started, recipe))
        if store and not record:
            keep_record(store, request.digest, root / ".runs" / request.digest / "run.json")
        if job.mirror:
            job.mirror.remove()
        shutil.rmtree(job.resume, ignore_errors=True)
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
        # Whoever held it may have removed the file meanwhile: a lock on that file would keep nobody out.
        if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
            raise Refused(f"{resume}: another process has just ended this step; run the same command again")
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


def _run_record(job: Job, manifest: Manifest, started: float, recipe: Recipe) -> Json:
    """What differs between two equal runs: when, where, how fast."""
    packages = ("mmenc", "torch", "transformers", "tokenizers", "numpy", "zstandard", "great_expectations")
    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = package_version(name)
        except ModuleNotFoundError:
            continue
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
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


def _write_record(folder: Path, record: Json) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = temporary(folder, "run")
    write_json(partial, record)
    partial.rename(folder / "run.json")
