"""What `mmenc submit` would send, known before anybody is contacted: the compiled graph, its version, changed parameters.

Decisions: a version's name is the revision and the hash of the compiled graph (`1a2b3c4d5e6f-0badcafe`), so equal code and
recipe are uploaded once and different ones never share a name; what is uncommitted is refused or called dirty. An override
changes parameters of the run, never the graph: it is found by compiling the changed recipe too and comparing. Caching is
compiled in (a run of an uploaded version ignores the client's switch, and the client's knows the outermost graph alone).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mmenc.access import ENDPOINT, resolve
from mmenc.errors import Refused
from mmenc.overrides import override
from mmenc.recipe import Recipe, load
from pipelines.common import JOB_NOTE
from pipelines.schedule import Schedule, schedules
from pipelines.watch import Task, tasks

Write = Callable[[Recipe, Path], None]
CODE = ("src", "components", "pipelines", "images", "pyproject.toml", "constraints.txt")
"""What decides a run's result besides the recipe and the pointer to the data."""


@dataclass(frozen=True)
class Options:
    """What the command line says, by argparse's names."""

    params: Path
    overrides: list[str]
    allow_dirty: bool = False
    host: str = ""
    token_file: Path | None = None
    cookies_file: Path | None = None
    namespace: str = ""
    experiment: str = ""
    run_name: str = ""
    service_account: str = ""
    caching: bool | None = None
    wait: bool = True
    poll: float = 5.0
    timeout: float = 0.0
    dry_run: bool = False
    cron: str = ""
    every: str = ""
    max_concurrency: int = 1
    no_catchup: bool = False


@dataclass(frozen=True)
class Job:
    """Everything that is known before anybody is contacted."""

    pipeline: str
    version: str
    text: str
    tasks: list[Task]
    trainjobs: list[dict[str, Any]]
    """What tasks of several nodes create (`compute.nodes`)."""
    addresses: dict[str, str]
    """What the graph's importers get, by parameter."""
    arguments: dict[str, Any]
    experiment: str
    name: str
    description: str
    schedules: list[Schedule]


def prepare(options: Options, write: Write, root: Path) -> Job:
    """Compile, compare, name."""
    recipe = load(options.params)
    changed = override(recipe, options.overrides)
    text = _compiled(write, recipe, options.caching)
    arguments: dict[str, Any] = {}
    if changed != recipe:
        arguments = _arguments(text, _compiled(write, changed, options.caching), options.overrides)
    spec = _documents(text)[0]
    version = _revision(root, options.params, recipe, options.allow_dirty, hashlib.sha256(text.encode()).hexdigest()[:8])
    words = "".join(f" -S {word}" for word in options.overrides)
    plain = f"{recipe.release.name} {spec['pipelineInfo']['name'].removeprefix('mmenc-')}"
    return Job(
        pipeline=spec["pipelineInfo"]["name"],
        version=version,
        text=text,
        tasks=tasks(spec),
        trainjobs=_trainjobs(_documents(text)),
        addresses=_addresses(spec),
        arguments=arguments,
        experiment=options.experiment or recipe.release.name,
        name=options.run_name or f"{plain} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        # The last word tells this submission from any other of the same name, should an answer get lost.
        description=f"mmenc submit {version}{words} ({uuid.uuid4().hex[:12]})",
        schedules=schedules(options.cron, options.every, options.max_concurrency, options.run_name or plain),
    )


def _compiled(write: Write, recipe: Recipe, caching: bool | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pipeline.yaml"
        write(recipe, out)
        text = out.read_text(encoding="utf-8")
    if caching is None:
        return text
    documents = _documents(text)
    components = [documents[0]["root"], *documents[0]["components"].values()]
    for task in (t for c in components for t in c.get("dag", {}).get("tasks", {}).values()):
        task["cachingOptions"] = {"enableCache": caching}
    return yaml.safe_dump_all(documents, sort_keys=True, allow_unicode=True, width=10_000)


def _addresses(spec: Any) -> dict[str, str]:
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return {n: str(p.get("defaultValue", "")) for n, p in parameters.items() if n.endswith("_uri") or n.startswith("uri_")}


def _trainjobs(documents: list[Any]) -> list[dict[str, Any]]:
    kubernetes = documents[1]["platforms"]["kubernetes"] if documents[1:] else {}
    told = kubernetes.get("deploymentSpec", {}).get("executors", {}).values()
    notes = [e.get("podMetadata", {}).get("annotations", {}) for e in told]
    return [json.loads(n[JOB_NOTE]) for n in notes if JOB_NOTE in n]


def images(job: Job) -> list[str]:
    """Of all pods, those of TrainJobs included."""
    found = {t.container["image"] for t in job.tasks if t.container} | {j["spec"]["trainer"]["image"] for j in job.trainjobs}
    return sorted(found)


def beyond_reach(job: Job) -> dict[str, str]:
    """By parameter, why Kubeflow's importer will refuse it: it takes addresses only, and a plain path is none."""
    remedy = {"data_uri": "--data s3://BUCKET/…/POINTER.json", "source_uri": "s3://… in model.source and tokenizer.source"}
    return {
        name: f"{uri!r} is a path, which no importer on a cluster takes; give {remedy.get(name, '--model NAME=s3://…')}"
        for name, uri in job.addresses.items()
        if "://" not in uri
    }


def _documents(text: str) -> list[Any]:
    """The pipeline's spec, and behind it what Kubernetes needs to know (kfp-kubernetes)."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _arguments(text: str, changed: str, words: list[str]) -> dict[str, Any]:
    """Parameters whose defaults differ; Refused when the graphs differ in anything else but their descriptions."""
    graphs, defaults = [], []
    for documents in (_documents(text), _documents(changed)):
        parameters = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults.append({name: p.pop("defaultValue", None) for name, p in parameters.items()})
        for key in ("description", "displayName"):
            documents[0]["pipelineInfo"].pop(key, None)
        graphs.append(documents)
    said = " ".join(f"-S {word}" for word in words)
    if at := _difference(*graphs):
        raise Refused(f"{said}: changes the compiled graph ({at}), not only its parameters; change the recipe and submit again")
    found = {name: value for name, value in defaults[1].items() if value != defaults[0][name]}
    if not found:
        raise Refused(f"{said}: this pipeline does not read what it changes")
    return found


def _difference(one: Any, two: Any, at: str = "") -> str:
    """The first path at which two documents differ, "" for none."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted({*one, *two}):
            if found := _difference(one.get(key), two.get(key), f"{at}.{key}" if at else str(key)):
                return found
        return ""
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return next(filter(None, (_difference(a, b, at) for a, b in zip(one, two, strict=True))), "")
    return "" if one == two else at or "its parts"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode:
        raise Refused(f"{root}: {done.stderr.strip() or 'git failed'}; a version is named by its git revision, commit first")
    return done.stdout


def _revision(root: Path, params: Path, recipe: Recipe, allow_dirty: bool, graph: str) -> str:
    """The version's name; Refused when it would not say what runs."""
    revision = _git(root, "rev-parse", "--verify", "HEAD").strip()
    top = Path(_git(root, "rev-parse", "--show-toplevel").strip()).resolve()
    data = Path(recipe.ingest.root)  # a folder with its DVC pointer, or itself a file that points into a bucket
    watched = [*(root.resolve() / c for c in CODE), params.resolve(), Path(f"{data}.dvc").resolve()]
    watched += [data.resolve()] if data.is_file() else []
    paths = [p for p in watched if p.is_relative_to(top) and p.exists()]
    listed = _git(top, "status", "--porcelain", "--untracked-files=all", "--", *map(str, paths)).splitlines()
    dirty = [line[3:] for line in listed]
    if not params.resolve().is_relative_to(top):
        dirty.append(str(params))
    if dirty and not allow_dirty:
        more = f" and {len(dirty) - 1} more" if dirty[1:] else ""
        raise Refused(
            f"{dirty[0]}{more}: not committed, so revision {revision[:12]} would not tell what ran; commit, or --allow-dirty"
        )
    return f"{revision[:12]}-{graph}{'-dirty' if dirty else ''}"


def _amount(quantity: str) -> float:
    """A Kubernetes quantity (`500m`, `1.5`, `8G`, `8Gi`) as a number to compare."""
    found = re.fullmatch(r"([0-9.]+)(m|[kKMGTPE]?i?)", quantity)
    if not found:
        return 0.0
    base = 1024.0 if found[2].endswith("i") else 1000.0
    return float(found[1]) * (1e-3 if found[2] == "m" else base ** " KMGTPE".find(found[2][:1].upper() or " "))


def show(job: Job, options: Options) -> None:
    """What would be done; nobody is contacted."""
    containers = [t.container for t in job.tasks if t.container]
    resources = [c.get("resources", {}) for c in containers]

    def most(*keys: str) -> str:
        found = {next((str(r[k]) for k in keys if k in r), "") for r in resources} - {""}
        return max(found, key=_amount) if found else "no limit"

    lines = [("pipeline", job.pipeline), ("version", job.version), ("experiment", job.experiment)]
    lines += [("recurring", f"{s.name}: {s}") for s in job.schedules] or [("run", job.name)]
    lines += [("override", f"{name}, changed by {' '.join(options.overrides)}") for name in sorted(job.arguments)]
    bad = beyond_reach(job)
    lines += [(name, bad.get(name, uri)) for name, uri in job.addresses.items()]
    lines += [
        ("image", image + (" (a placeholder: submit refuses it)" if image.endswith(":REVISION") else "")) for image in images(job)
    ]
    lines += [("tasks", f"{len(job.tasks)}")]
    nodes = sorted({(j["spec"]["trainer"]["numNodes"], j["spec"]["trainer"]["numProcPerNode"]) for j in job.trainjobs})
    shape = ", ".join(f"{count} nodes with {each} processes" for count, each in nodes)
    lines += [("trainjobs", f"{len(job.trainjobs)}: {shape}; `mmenc trainjob` shows them")] if nodes else []
    limits = f"cpu {most('resourceCpuLimit', 'cpuLimit')}, memory {most('resourceMemoryLimit', 'memoryLimit')}"
    gpus = [r["accelerator"] for r in resources if "accelerator" in r]
    kinds = sorted({f"{g.get('resourceCount', g.get('count'))} × {g.get('resourceType', g.get('type'))}" for g in gpus})
    lines += [("at most", f"a task: {limits}" + (f"; {len(gpus)} tasks with {', '.join(kinds)}" if gpus else "; no accelerator"))]
    lines += [("caching", "as compiled" if options.caching is None else "on" if options.caching else "off")]
    access = resolve(options.host, options.token_file, options.cookies_file)
    lines += [("host", f"{access.host}, with {access.credential}" if access else f"none is named; --host, or export {ENDPOINT}")]
    print("\n".join(f"{name:<11} {value}" for name, value in lines))
    print("dry run: nothing was sent")
