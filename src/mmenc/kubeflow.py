"""Runs a step from Kubeflow artifacts: what the body of every face in `components/` calls. Imports no kfp (duck-typed).

Decisions: a face gets only the sections of the recipe that its step reads, because KFP's cache key is the argument values
and a change of `evaluate` must not train again; the other sections are filled with stand-ins, which cannot reach the
artifact: its `config` holds declared parameters only (tests/contract/test_kubeflow.py compares both). The tree of phases
is compiled into the graph, so a parent that the recipe no longer names is refused, never silently used.
The step works beside the KFP output and the finished directory is moved there in one rename; `.runs`, `.resume` and `.cache`
lie in that same temporary place, or in $MMENC_STATE where a volume or a shared folder keeps them between pods. With
`compute.store` nothing needs to be kept: resume state and large files lie in the store.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmenc.artifact import Artifact, Manifest, read_json, replace_json, write_json
from mmenc.cluster import COMPUTE, SHARE, STATE
from mmenc.compare import compare
from mmenc.errors import Refused
from mmenc.facets import headline
from mmenc.job import execute
from mmenc.page import page as page_html
from mmenc.page import table
from mmenc.recipe import Recipe, parse
from mmenc.share import Share, assist
from mmenc.steps import Step, find
from mmenc.store import is_remote
from mmenc.tables import page_of

Sections = Mapping[str, Any]
Inputs = Mapping[str, Any]
PLANNED = {"accelerator", "accelerators", "peak_tflops", "utilisation", "utilisation_source", "memory_gb", "watts"}
PLANNED |= {"price_per_hour", "currency", "nodes"}
"""Keys of `compute` that the plan and the launcher read; with `counts` and `cluster` they are no arguments of a task."""
PAGES = {"validate": "report.html", "report": "report.html", "release": "README.md"}
"""File of the artifact that a face shows in the UI; the other pages are made of facts (`tables.py`)."""


def identifiers(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Names as parameters of a pipeline: `decay-all` becomes `phase_decay_all`; two that become one are refused."""
    found: dict[str, str] = {}
    for name in names:
        key = f"{prefix}_{re.sub('[^a-z0-9]', '_', name.lower())}"
        if other := next((n for n, k in found.items() if k == key), ""):
            raise Refused(f"{name}: becomes the parameter {key}, as {other} does; rename one of the two")
        found[name] = key
    return found


def send(recipe: Recipe) -> dict[str, Any]:
    """The sections as parameters, each phase one of its own, so that changing one in the UI leaves the others cached.

    Kubeflow keeps no order of a dict's keys: waves and buckets have theirs in `_order`, a phase its name in `_name`. `compute`
    is only what running reads: a change of price, plan or cluster must not train again. `store` is a parameter of its
    own, because every step needs it, and not every step the rest.
    """
    dumped: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    dumped["compute"] = recipe.compute.model_dump(mode="json", exclude={*PLANNED, "counts", "cluster", "store"})
    dumped["store"] = recipe.compute.store
    sections: dict[str, Any] = {}
    for section, value in dumped.items():
        if section != "phases":
            sections[section] = value
            continue
        for name, key in identifiers("phase", value).items():
            sections[key] = value[name] | {"_name": name}
    for named in (sections["languages"], *(p["buckets"] for p in dumped["phases"].values())):
        if named:
            named["_order"] = list(named)
    return sections


def surroundings(recipe: Recipe) -> str:
    """Of `compute`, what is compiled in: pods get it as MMENC_COMPUTE, beside their arguments, for the records of runs."""
    return json.dumps(
        recipe.compute.model_dump(mode="json", include={*PLANNED, "threads", "device", "store_patience"}), sort_keys=True
    )


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return [_restore(v) for v in value]
    if not isinstance(value, Mapping):
        return value
    order = [k for k in value.get("_order", ()) if k in value]
    return {k: _restore(value[k]) for k in dict.fromkeys([*order, *value]) if k != "_order"}


def complete(sections: Sections, name: str = "") -> Recipe:
    """A whole recipe from the sections that a face was given; the others are stand-ins that pass the checks."""
    given: dict[str, Any] = _restore(sections)
    given["phases"] = _phases(given, name)
    given["compute"] = json.loads(os.environ.get(COMPUTE) or "{}") | given.get("compute", {})
    if store := given.pop("store", ""):
        given["compute"]["store"] = store
    first = next(iter(given["phases"]))
    empty: dict[str, Any] = {
        s: {} for s in ("ingest", "clean", "validate", "tokenizer", "tokenize", "evaluate", "release", "compute")
    }
    empty |= {"seed": 0, "languages": {"all": "all"}, "model": {"window": 1}, "merge": {"base": first, "branches": [first]}}
    return parse(empty | given, "the pipeline's parameters")


def _phases(given: dict[str, Any], name: str) -> dict[str, Any]:
    """The tree: all phases (`phases`, a list), or one (`phase`) under a stand-in for its parent, or what `merge` names."""
    context = given.get("model", {}).get("window", 1)
    plain: dict[str, Any] = {"languages": next(iter(given.get("languages", {"all": "all"}))), "temperature": 1, "mask": 0.3}
    plain |= {"context": context, "rope_theta": 10000, "tokens": context, "batch_tokens": context, "lr": {"peak": 1e-3}}
    if "phases" in given:
        return {phase.pop("_name", ""): phase for phase in given["phases"] if phase}
    if "phase" in given:
        phase = given.pop("phase")
        own, parent = phase.pop("_name", name), phase.get("init", "init")
        return {own: phase} | ({} if parent in ("init", own) else {parent: plain | {"init": "init"}})
    merge = given.get("merge", {"base": name if name not in ("", "merge") else "phase", "branches": []})
    branches = {b: plain | {"init": merge["base"], "checkpoints": 1} for b in merge["branches"] if b != merge["base"]}
    return {merge["base"]: plain | {"init": "init", "checkpoints": 1}, **branches}


def run_step(
    step: str,
    version: int,
    name: str,
    sections: Sections,
    inputs: Inputs,
    out: Any,
    metrics: Any = None,
    page: Any = None,
    scripts: Any = None,
) -> None:
    """Run one step: `inputs` are artifacts by role (a list for a role with instances), `out` and the rest KFP outputs.

    A refusal ends the process with its sentence and the exit code of the contract.
    """
    given = {role: artifact for role, artifact in inputs.items() if artifact is not None}
    with _sentences():
        _run(find(f"{step}@{version}"), name, sections, given, out, metrics, page, scripts)


def assist_step(step: str, version: int, share: str, sections: Sections, inputs: Inputs, metrics: Any, page: Any) -> None:
    """Make a share of a step's parts; what is left for the UI is which."""
    with _sentences(), _workplace(Path(metrics.path), inputs) as (work, dirs):
        row = find(f"{step}@{version}")
        made = assist(row, "", complete(sections), work / row.folder, dirs, Share.parse(share))["made"]
        values = {f"{stage}.made": counts["made"] for stage, counts in made.items()}
        metrics.metadata.update(values)
        write_json(Path(metrics.path), values)
        rows = [[stage, counts["made"], counts["of"]] for stage, counts in made.items()]
        parts = [table(["stage", "parts made here", "of"], rows, sortable=False)] if rows else ["The step was finished already."]
        Path(page.path).write_text(page_html(f"{step}, share {share}", parts), encoding="utf-8")


@contextmanager
def _sentences() -> Iterator[None]:
    """A refusal ends the process with its sentence and the exit code of the contract."""
    try:
        yield
    except Refused as error:
        print(f"mmenc: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


@contextmanager
def _workplace(beside: Path, inputs: Inputs) -> Iterator[tuple[Path, dict[str, Path | str]]]:
    """A temporary folder beside an output, and the places of the roles."""
    beside.absolute().parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".mmenc.", dir=beside.absolute().parent))
    try:
        _state(work)
        yield work, {role: _folder(work / "inputs" / role, given) for role, given in inputs.items()}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(step: Step, name: str, sections: Sections, inputs: Inputs, out: Any, *shown: Any) -> None:
    recipe = complete(sections, name)
    target = Path(out.path).absolute()
    share = Share.parse(text) if (text := os.environ.get(SHARE)) else None
    with _workplace(target, inputs) as (work, dirs):
        if step.name == "train":
            _same_parent(recipe.phases[name].init if name in recipe.phases else "", Path(dirs["init"]), name)
        _bring_records(work / ".runs", inputs)
        made = work / step.folder.format(name=name)
        manifest = execute(step, name, recipe, made, dirs, share=share)
        _show(step, made, manifest, *shown)
        record = read_json(work / ".runs" / manifest.digest / "run.json")
        out.metadata |= describe(manifest) | {"run": record, "runs": _pack(_records(inputs) | {manifest.digest: record})}
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        made.rename(target)


def _state(work: Path) -> None:
    """Let `.runs`, `.resume` and `.cache` of this step lie in $MMENC_STATE, if there is one."""
    if state := os.environ.get(STATE):
        for part in (".runs", ".resume", ".cache"):
            kept = Path(state).absolute() / part
            kept.mkdir(parents=True, exist_ok=True)
            (work / part).symlink_to(kept, target_is_directory=True)


def _folder(link: Path, given: Any) -> Path | str:
    """The place of a role; several artifacts become a folder of links, each under its manifest's name.

    On a cluster KFP has brought an artifact to its path; a local runner leaves a bucket's address as it is.
    """
    if not isinstance(given, Sequence):
        return str(given.uri) if is_remote(given.uri) and not Path(given.path).exists() else Path(given.path)
    link.mkdir(parents=True)
    for artifact in filter(None, given):
        name = Manifest.read(Path(artifact.path)).name
        (link / name).symlink_to(Path(artifact.path).absolute(), target_is_directory=True)
    return link


def _same_parent(expected: str, path: Path, name: str) -> None:
    found = Manifest.read(path)
    if expected and expected != (found.name or found.step):
        raise Refused(
            f"phases.{name}.init: is {expected}, the compiled graph brings {found.name or found.step}; run `mmenc compile` again"
        )


def describe(manifest: Manifest) -> dict[str, Any]:
    """What the UI shows of an artifact: its names and hashes, those of its parents, and its facts, of tables their length.

    The same as the OpenLineage events say (events.py); short, because all metadata travels on a command line.
    """
    facts = {f"fact.{k}": len(v) if isinstance(v, dict | list) else v for k, v in manifest.facts.items()}
    parents = {f"parent.{p.role}": {"digest": p.digest, "content": p.content} for p in manifest.parents}
    names: dict[str, Any] = {key: getattr(manifest, key) for key in ("step", "name", "version", "digest", "content")}
    return names | parents | {"inputs": len(manifest.inputs), "figures": headline(manifest.facts)} | facts


def figures(facts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Headline figures of a step: its plain numbers and the last of a curve; tables per language stay in the artifact."""
    found: dict[str, float] = {}
    for key, value in sorted(facts.items()):
        if isinstance(value, list) and value and isinstance(value[-1], list) and len(value[-1]) == 2:
            value = value[-1][1]  # noqa: PLW2901
        if isinstance(value, dict) and (key == "buckets" or "_" in next(iter(value), "")[3:4]):  # keys such as eng_Latn
            found[f"{prefix}{key}"] = len(value)
        elif isinstance(value, dict) and prefix.count(".") < 3:
            found |= figures(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{key}"] = value
    return found


def _show(step: Step, made: Path, manifest: Manifest, metrics: Any, page: Any, scripts: Any) -> None:
    if metrics is not None:
        values = figures(manifest.facts)
        metrics.metadata.update(values)
        # A component whose Metrics write no file is never found in KFP's cache.
        write_json(Path(metrics.path), values)
    if page is not None and step.name in PAGES:
        shutil.copyfile(made / PAGES[step.name], page.path)
    elif page is not None:
        Path(page.path).write_text(page_of(manifest), encoding="utf-8")
    if scripts is not None:
        found = manifest.facts["scripts"]
        scripts.log_confusion_matrix(found["names"], found["matrix"])
        write_json(Path(scripts.path), found)


def _records(inputs: Inputs) -> dict[str, Any]:
    """Records of the runs that made the inputs and their ancestors; they travel in the artifacts' metadata."""
    found: dict[str, Any] = {}
    for given in inputs.values():
        for artifact in filter(None, given if isinstance(given, Sequence) else [given]):
            if packed := (getattr(artifact, "metadata", None) or {}).get("runs"):
                found |= json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def _pack(records: Mapping[str, Any]) -> str:
    """Short enough (a tenth) for the command line, on which KFP hands over all metadata: 128 KB in all."""
    return base64.b64encode(zlib.compress(json.dumps(records, sort_keys=True).encode(), 9)).decode()


def _bring_records(runs: Path, inputs: Inputs) -> None:
    for digest, record in _records(inputs).items():
        path = runs / digest / "run.json"
        if record and not path.exists():
            replace_json(path, record)


def show_comparison(names: Sequence[str], scores: Sequence[Any], evaluate: Mapping[str, Any], metrics: Any, page: Any) -> None:
    """Show the scores of several models side by side; the end of `pipelines/evaluate.py`."""
    found = {name: Artifact.read(Path(given.path)) for name, given in zip(names, filter(None, scores), strict=True)}
    rows = {
        name: [r for r in read_json(a.path / "scores.json")["rows"] if r["model"] == a.manifest.name] for name, a in found.items()
    }
    text, values = compare(rows, int(evaluate["bootstrap"]))
    Path(page.path).write_text(text, encoding="utf-8")
    metrics.metadata.update(values)
    write_json(Path(metrics.path), values)


def report_end(status: Any, page: Any) -> None:
    """The exit handler: one line in the log and a page that says how the run ended."""
    reason = f": {status.error_message}" if getattr(status, "error_message", "") else ""
    print(text := f"{status.pipeline_task_name or 'pipeline'} {status.state}{reason}", flush=True)
    Path(page.path).write_text(f"# {status.state}\n\n{text}\n", encoding="utf-8")
