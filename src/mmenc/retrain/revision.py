"""One git revision as a graph: its recipe, resolved by its own code, its steps, its raw data, a key per artifact.

Decisions: a key is the artifact's digest with the raw data named by what git holds of it (DVC's hashes, a pointer's versions),
since CI has neither data nor artifacts: two revisions have equal keys where they have equal digests. So a comment, the order
of keys or `8e-4` for `0.0008` retrain nothing, while a step's new version or a changed default of the schema do. For that
each revision's recipe is read by the `mmenc` of that very revision (0.6 s in a process of its own); a repository without
`src/mmenc` is read by the one that runs. The graph is that revision's dvc.yaml; which parameters count says steps.TABLE.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmenc.artifact import Json, sha256_json
from mmenc.errors import Refused

RESOLVE = """
import json, sys
from pathlib import Path
from mmenc.errors import Refused
from mmenc.recipe import load
from mmenc.steps import TABLE
keys = ("params", "reads", "raw", "files", "source")
rows = {s.name: {key: getattr(s, key, "" if key == "source" else ()) for key in keys} for s in TABLE.values()}
try:
    print(json.dumps({"recipe": load(Path(sys.argv[1])).model_dump(mode="json", by_alias=True), "table": rows}))
except Refused as error:
    print(json.dumps({"refused": str(error)}))
"""
UNNAMED = ("random", "train", "")
"""Values of a parameter that may name a released model, where it names none."""


@dataclass(frozen=True)
class Node:
    """One run of a step; `out` is its folder, which others name as their input."""

    label: str
    stage: str
    step: str
    name: str
    version: str
    out: str
    config: Json
    parents: dict[str, str]
    """Labels of other nodes, by role."""
    inputs: Json
    """What it reads beside artifacts: {name: identity}."""
    deps: tuple[str, ...] = ()
    """What DVC watches for it."""
    roles: dict[str, str] = field(default_factory=dict)
    """Folders by role, as its command says them."""


@dataclass(frozen=True)
class State:
    """What a revision asks for."""

    revision: str
    recipe: Json
    nodes: dict[str, Node]
    data: Mapping[str, str]
    """Identity of every raw file that ingest reads; `{"": hash}` where only the whole is known."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of raw files, as far as git says them."""
    unwatched: list[str] = field(default_factory=list)
    """Parameters that name what git does not hold: a change there cannot be seen."""

    def keys(self) -> dict[str, str]:
        """The key of every node, in an order that satisfies the dependencies."""
        found: dict[str, str] = {}

        def key(label: str) -> str:
            if label not in found:
                node = self.nodes[label]
                parents = [{"role": role, "digest": key(parent)} for role, parent in sorted(node.parents.items())]
                asked = {"step": node.step, "name": node.name, "version": node.version, "config": node.config}
                found[label] = sha256_json({**asked, "parents": parents, "inputs": node.inputs})
            return found[label]

        for label in self.nodes:
            key(label)
        return found


def git(root: Path, *words: str) -> bytes:
    """What git answers; Refused with its sentence."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)  # noqa: S607
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["failed"])[-1]
        raise Refused(f"git {' '.join(words[:3])}: {said}")
    return done.stdout


def commit(root: Path, name: str) -> str:
    """The full hash of a revision."""
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(f"{name!r}: this repository has no such revision; in CI check out the whole history (fetch-depth: 0)")
    return done.stdout.strip()


def extract(root: Path, revision: str, folder: Path) -> None:
    """Write a revision's files to a folder."""
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", "--format=tar", revision))) as tar:
        tar.extractall(folder, filter="data")


def resolve(tree: Path, params: str) -> Json:
    """`{recipe, table}` of an extracted revision, read by its own code where it brings any; Refused when its recipe is."""
    own = tree / "src"
    code = own if (own / "mmenc" / "steps.py").is_file() else Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", RESOLVE, params]
    done = subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Refused(f"{params}: the code of that revision cannot read it ({last})")
    found: Json = json.loads(done.stdout)
    if "refused" in found:
        raise Refused(found["refused"])
    return found


def value(recipe: Any, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        recipe = recipe[part]
    return recipe


def _stages(tree: Path, recipe: Json) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(stage, key, item) with `foreach` expanded, as DVC names them: `train@extend`; the stage's body is behind it."""
    try:
        stages = yaml.safe_load((tree / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise Refused(f"dvc.yaml: cannot be read as a graph ({error}); expected a mapping with `stages`") from None
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for name, stage in stages.items():
        if "foreach" in stage:
            items = value(recipe, str(stage["foreach"]).strip("${}"))
            found += [(f"{name}@{key}", key, {"do": stage["do"], "item": item}) for key, item in items.items()]
        else:
            found.append((name, "", {"do": stage, "item": {}}))
    return found


def _fill(text: str, recipe: Json, key: str, item: Any) -> str:
    def one(found: re.Match[str]) -> str:
        path = found[1]
        if path == "key":
            return key
        return str(value(item, path.removeprefix("item.")) if path.startswith("item.") else value(recipe, path))

    try:
        return re.sub(r"\$\{([^}]+)\}", one, text)
    except (KeyError, TypeError):
        raise Refused(f"dvc.yaml: {text!r} names what the recipe does not have") from None


def _roles(step: str, reads: list[str], roles: Mapping[str, str], recipe: Json) -> dict[str, str]:
    """Folders by role, a role that reads several instances expanded as mmenc.job does."""
    found: dict[str, str] = {}
    for role in reads:
        plain = role.rstrip("*")
        place = roles.get(plain, "")
        if not role.endswith("*"):
            found[plain] = place
        elif step == "merge":
            found["base"] = f"{place}/{recipe['merge']['base']}"
            found |= {f"branch:{b}": f"{place}/{b}" for b in recipe["merge"]["branches"]}
        else:
            found |= {f"{plain}:{n}": f"{place}/{n}" for n in [*recipe["phases"], "merge"]}
    return found


def graph(tree: Path, recipe: Json, table: Json, data: Mapping[str, str]) -> tuple[dict[str, Node], list[str]]:
    """Nodes by label, and parameters that name what git does not hold."""
    drafts: list[tuple[str, str, str, str, str, dict[str, str], tuple[str, ...]]] = []
    for stage, key, body in _stages(tree, recipe):
        words = _fill(str(body["do"]["cmd"]), recipe, key, body["item"]).split()
        if words[:2] != ["mmenc", "run"]:
            raise Refused(
                f"dvc.yaml: stages.{stage}: {' '.join(words[:3])} is no step of mmenc; expected `mmenc run STEP@VERSION`"
            )
        step, _, version = words[2].partition("@")
        if step not in table:
            raise Refused(f"dvc.yaml: stages.{stage}: no step is called {step!r}")
        name = words[words.index("--name") + 1] if "--name" in words else ""
        roles = dict(w.split("=", 1) for w in words[3:] if "=" in w)
        deps = tuple(_fill(str(d), recipe, key, body["item"]) for d in body["do"].get("deps", ()))
        drafts.append((stage, step, name, version, words[words.index("--out") + 1], roles, deps))
    labels = {out: f"{step} {name}".strip() for _, step, name, _, out, _, _ in drafts}
    nodes: dict[str, Node] = {}
    unwatched: list[str] = []
    for stage, step, name, version, out, roles, deps in drafts:
        row = table[step]
        places = _roles(step, row["reads"], roles, recipe)
        if lost := next((p for p in places.values() if p not in labels), None):
            raise Refused(f"dvc.yaml: stages.{stage} reads {lost}, which no stage makes")
        inputs: Json = dict(data) if row["raw"] else {}
        for parameter in [*row["files"], *([row["source"]] if row["source"] else [])]:
            named = str(value(recipe, parameter) or "")
            if named not in UNNAMED:
                identity = identify(tree, named)
                inputs[parameter] = identity
                unwatched += [] if identity else [f"{parameter}: {named}"]
        config = {p: value(recipe, p) for p in (q.format(name=name) for q in row["params"])}
        label = labels[out]
        parents = {role: labels[place] for role, place in places.items()}
        nodes[label] = Node(label, stage, step, name, version, out, config, parents, inputs, deps, roles)
    return nodes, unwatched


def identify(tree: Path, place: str) -> str:
    """What tells one state of a named file or folder from another, as far as git holds it: DVC's hash, or its own."""
    from mmenc.artifact import sha256_file

    path, pointer = tree / place, tree / f"{place.rstrip('/')}.dvc"
    if not path.is_relative_to(tree) or ".." in Path(place).parts:
        return ""
    if pointer.is_file():
        return f"dvc:{sha256_json(yaml.safe_load(pointer.read_text(encoding='utf-8'))['outs'])}"
    if path.is_file():
        return sha256_file(path)
    return sha256_json({str(p.relative_to(path)): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()}) * path.is_dir()


def read(root: Path, name: str, params: str, scratch: Path) -> State:
    """Everything about one revision; `scratch` is an empty folder that gets its files."""
    from mmenc.retrain import data

    revision = commit(root, name)
    extract(root, revision, scratch)
    found = resolve(scratch, params)
    recipe = found["recipe"]
    try:
        raw, sizes = data.read(root, scratch, recipe["ingest"])
        nodes, unwatched = graph(scratch, recipe, found["table"], raw)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        said = f"dvc.yaml, {recipe['ingest']['root']}.dvc or a pointer there is not of DVC's or our form"
        raise Refused(f"revision {name}: {said} ({type(error).__name__}: {told})") from None
    return State(revision, recipe, nodes, raw, sizes, unwatched)
