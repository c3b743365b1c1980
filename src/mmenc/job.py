"""Runs one step: reads and verifies its inputs, computes the digest, and seals what the step's function wrote.

A step's function takes a `Job` and returns its facts. It writes into `job.out` (a temporary directory that becomes the
artifact), and may keep resume state in `job.resume` and timings in `job.measured`; it knows nothing of who runs it.
"""

from __future__ import annotations

import errno
import importlib
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmenc import stop
from mmenc.artifact import Artifact, Json, Manifest, Request, atomic_directory, replace_json, seal
from mmenc.errors import Refused
from mmenc.events import FILE, Events
from mmenc.external import Cache, give, keep_record, recall, remember
from mmenc.heartbeat import beating
from mmenc.lock import locked, tidy
from mmenc.raw import SOURCE, Places, raw_inputs
from mmenc.recipe import Recipe
from mmenc.resume import Mirror
from mmenc.steps import Step, artifacts_root
from mmenc.store import Store

if TYPE_CHECKING:
    from mmenc.data.sources.listing import Listing
    from mmenc.share import Meeting, Share


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
    listing: Listing | None = None
    """What ingest has to read."""
    cache: Path = Path()
    """Folder for what is fetched and may be fetched again."""
    meeting: Meeting | None = None
    """Where several workers share the step's parts."""

    @property
    def log(self) -> Path:
        """Folder for what differs between two equal runs (times, pages of refusals): `.runs/<digest>`."""
        return self.resume.parent.parent / ".runs" / self.request.digest

    def text(self, role: str, *patterns: str) -> Path:
        """An input's files as `Artifact.local` gives them; of several workers each fetches only what its parts name."""
        return self.inputs[role].links() if self.meeting else self.inputs[role].local(*patterns)

    def saved(self) -> None:
        """Called when resume state has been written: the store, if there is one, gets it too."""
        if self.mirror:
            self.mirror.save(last=stop.requested)

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


def expand(step: Step, recipe: Recipe, dirs: Mapping[str, Path]) -> dict[str, Path]:
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


def prepare(step: Step, name: str, recipe: Recipe, out: Path, dirs: Places, cache: Cache) -> Job:
    """Read and verify a step's inputs; what is asked for, and so its digest, is known then."""
    known = [*recipe.phases, "merge"] if step.name == "evaluate" else list(recipe.phases)
    if step.instances and name not in known:
        raise Refused(f"{step.name}: no instance is called {name!r}; the recipe has {', '.join(known)}")
    if not step.instances and name:
        raise Refused(f"{step.name}: takes no --name")
    roles = {k: Path(v) for k, v in dirs.items()}
    inputs = {role: Artifact.read(path, cache=cache) for role, path in expand(step, recipe, roles).items()}
    raw, raw_files, listing = raw_inputs(step, recipe, dirs, cache.folder)
    request = Request(
        step=step.name,
        name=name,
        version=step.version,
        config={path: recipe.value(path) for path in step.param_paths(name)},
        parents=tuple(artifact.parent(role) for role, artifact in inputs.items()),
        inputs=tuple(raw_files),
    )
    resume = artifacts_root(step, out) / ".resume" / request.digest
    declared = cast("Recipe", _Declared(recipe, step))
    return Job(step, name, declared, inputs, raw, raw_files, out, resume, request, listing=listing, cache=cache.folder)


def execute(
    step: Step, name: str, recipe: Recipe, out: Path, dirs: Places, *, compute: bool = True, share: Share | None = None
) -> Manifest:
    """Run a step (or leave its artifact as it is when it already is what is asked for) and return the manifest.

    Without `compute` a finished result is taken from the store or the step refuses. With a `share` its parts are made together
    with the workers that have the other shares.
    """
    root = artifacts_root(step, out)
    cache = Cache(root / ".cache", recipe.compute.store_patience)
    try:
        with stop.signals(), disk_errors(out):
            job = prepare(step, name, recipe, out, dirs, cache)
            if (done := _already(out, job.request)) is not None:
                tidy(job.resume)
                print(f"{step.name} {name}".strip() + f": up to date ({job.request.digest[:12]})", flush=True)
                return done
            store = Store(recipe.compute.store, recipe.compute.store_patience) if recipe.compute.store else None
            if share:
                from mmenc.share import meet

                job.meeting = meet(job, recipe, share)
            events = Events(step, job.request, list(job.inputs.values()), job.log / FILE)
            return _make(job, recipe, out, root, store, cache, events, compute)
    finally:
        cache.close()


def _make(
    job: Job, recipe: Recipe, out: Path, root: Path, store: Store | None, cache: Cache, events: Events, compute: bool
) -> Manifest:
    """Make the artifact, and let events.py say so."""
    print(f"{job.step.name} {job.name}".strip() + f": {job.request.digest[:12]} -> {out}", flush=True)
    with locked(job.resume), beating(job.log, job.step.name, job.name, job.request.digest, out):
        events.start()
        try:
            manifest = _work(job, recipe, out, root, store, cache, compute)
        except BaseException as error:
            events.fail(error)
            raise
        events.complete(manifest, out)
        return manifest


def _work(job: Job, recipe: Recipe, out: Path, root: Path, store: Store | None, cache: Cache, compute: bool) -> Manifest:
    """Take the finished artifact from the store, or run the step's function and seal what it wrote."""
    step, request, started = job.step, job.request, time.time()
    module, _, function = step.function.partition(":")
    record = None
    # Also where the result is taken from the store: a lost pod may have left its state there.
    job.mirror = Mirror(store, request, job.resume) if store else None
    with atomic_directory(out) as work:
        if store and recall(store, request, work):
            manifest = Manifest.read(work)
            job.say(f"taken from {store.url}, where it was finished before")
            record, _ = store.read_json(f"runs/{request.digest}/run.json")
        elif not compute:
            raise Refused(f"{step.name} {job.name}".strip() + f": {request.digest[:12]} is not finished in the store")
        else:
            job.out = work
            facts = getattr(importlib.import_module(module), function)(job)
            external = give(work, step.large, store, cache) if store else []
            manifest = seal(work, request, list(job.inputs.values()), facts, external)
            if store:
                remember(store, work, manifest)
    known = record or _run_record(job, manifest, started, recipe)
    replace_json(root / ".runs" / request.digest / "run.json", known)
    if store and not record:
        keep_record(store, request.digest, known)
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
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = error.filename or out
            raise Refused(f"{where}: no space left on the device; nothing was changed, free some and run again") from None
        raise


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
        "group": os.getpgrp(),
        "user": os.environ.get("USER", ""),
        "git_revision": _git_revision(),
        "versions": versions,
        "peak_memory_bytes": peak * 1024,
        "compute": recipe.value("compute"),
        "measured": job.measured,
    }
