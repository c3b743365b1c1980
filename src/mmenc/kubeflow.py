"""Runs a step from Kubeflow artifacts: what the body of every face in `components/` calls. Imports no kfp (duck-typed).

Decisions: a face gets only the sections of the recipe that its step reads, because KFP's cache key is the argument values
and a change of `evaluate` must not train again; the other sections are filled with stand-ins, which cannot reach the
artifact: its `config` holds declared parameters only (tests/contract/test_kubeflow.py compares both). The tree of phases
is compiled into the graph, so a parent that the recipe no longer names is refused, never silently used.
The step works beside the KFP output and the finished directory is moved there in one rename; `.runs` and `.resume` lie in
that same temporary place, or in $MMENC_STATE where a volume or a shared folder keeps them between pods.
"""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmenc.artifact import Manifest, read_json, write_json
from mmenc.errors import Refused
from mmenc.job import execute
from mmenc.recipe import Recipe, parse
from mmenc.steps import Step, find

Sections = Mapping[str, Any]
Inputs = Mapping[str, Any]
STATE = "MMENC_STATE"
PAGES = {"validate": "report.html", "report": "report.html", "release": "README.md"}
"""File of the artifact that a face shows in the UI."""


def send(recipe: Recipe) -> dict[str, Any]:
    """The sections as parameters. Kubeflow sorts the keys of a dict; waves, phases and buckets keep theirs in `_order`."""
    sections: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    for named in (sections["languages"], sections["phases"], *(p["buckets"] for p in sections["phases"].values())):
        if named:
            named["_order"] = list(named)
    return sections


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
    wave = next(iter(given.get("languages", {"all": "all"})))
    if "phases" not in given:
        merge = given.get("merge", {"base": name if name not in ("", "merge") else "phase", "branches": []})
        context = given.get("model", {}).get("window", 64)
        plain = {"languages": wave, "temperature": 1, "mask": 0.3, "context": context, "rope_theta": 10000, "tokens": context}
        plain |= {"batch_tokens": context, "lr": {"peak": 1e-3}, "checkpoints": 1}
        branches = {b: plain | {"init": merge["base"]} for b in merge["branches"] if b != merge["base"]}
        given["phases"] = {merge["base"]: plain | {"init": "init"}, **branches}
    first = next(iter(given["phases"]))
    empty: dict[str, Any] = {
        s: {} for s in ("ingest", "clean", "validate", "tokenizer", "tokenize", "evaluate", "release", "compute")
    }
    empty |= {"seed": 0, "languages": {"all": "all"}, "model": {"window": 1}, "merge": {"base": first, "branches": [first]}}
    return parse(empty | given, "the pipeline's parameters")


def run_step(
    step: str, version: int, name: str, sections: Sections, inputs: Inputs, out: Any, metrics: Any = None, page: Any = None
) -> None:
    """Run one step: `inputs` are artifacts by role (a list for a role with instances), `out` and the rest KFP outputs.

    A refusal ends the process with its sentence and the exit code of the contract.
    """
    try:
        _run(find(f"{step}@{version}"), name, sections, inputs, out, metrics, page)
    except Refused as error:
        print(f"mmenc: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _run(step: Step, name: str, sections: Sections, inputs: Inputs, out: Any, *shown: Any) -> None:
    recipe = complete(sections, name)
    target = Path(out.path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".mmenc.", dir=target.parent))
    try:
        _state(work)
        dirs = {role: _folder(work / "inputs" / role, given) for role, given in inputs.items()}
        if step.name == "train":
            _same_parent(recipe.phases[name].init if name in recipe.phases else "", dirs["init"], name)
        _bring_records(work / ".runs", inputs)
        made = work / step.folder.format(name=name)
        manifest = execute(step, name, recipe, made, dirs)
        _show(step, made, manifest, *shown)
        record = read_json(work / ".runs" / manifest.digest / "run.json")
        out.metadata |= describe(manifest) | {"run": record, "runs": _pack(_records(inputs) | {manifest.digest: record})}
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        made.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _state(work: Path) -> None:
    """Let `.runs` and `.resume` of this step lie in $MMENC_STATE, if there is one."""
    if state := os.environ.get(STATE):
        for part in (".runs", ".resume"):
            kept = Path(state).absolute() / part
            kept.mkdir(parents=True, exist_ok=True)
            (work / part).symlink_to(kept, target_is_directory=True)


def _folder(link: Path, given: Any) -> Path:
    """The directory of a role; several artifacts become a folder of links, each under its manifest's name."""
    if not isinstance(given, Sequence):
        return Path(given.path)
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
    """What the UI shows of an artifact: its names, its hashes and its facts, of tables their length."""
    facts = {f"fact.{k}": len(v) if isinstance(v, dict | list) else v for k, v in manifest.facts.items()}
    return {key: getattr(manifest, key) for key in ("step", "name", "version", "digest", "content")} | facts


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


def _show(step: Step, made: Path, manifest: Manifest, metrics: Any, page: Any) -> None:
    if metrics is not None:
        values = figures(manifest.facts)
        metrics.metadata.update(values)
        # A component whose Metrics write no file is never found in KFP's cache.
        write_json(Path(metrics.path), values)
    if page is not None:
        shutil.copyfile(made / PAGES[step.name], page.path)


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
            write_json(path, record)


def report_end(status: Any, page: Any) -> None:
    """The exit handler: one line in the log and a page that says how the run ended."""
    reason = f": {status.error_message}" if getattr(status, "error_message", "") else ""
    print(text := f"{status.pipeline_task_name or 'pipeline'} {status.state}{reason}", flush=True)
    Path(page.path).write_text(f"# {status.state}\n\n{text}\n", encoding="utf-8")
