"""What differs between two revisions: values, raw text, and so the artifacts that get a new digest, each with its reasons.

`{schema, base, head, recipe: {changed: {PATH: [old, new]}, silent: [PATH]}, data, nodes: {LABEL: {step, name, stage, new, why}},
unwatched}`. `silent` are values that no step reads (`compute`): they change where and how fast, never what comes out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.retrain import data
from mmenc.retrain.revision import Node, State, commit, git, read

SCHEMA = 1


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def differences(old: Any, new: Any) -> dict[str, list[Any]]:
    """`{path: [old, new]}` of two plain values, None where one lacks it; a list is one value."""
    mine, yours = dict(_leaves(old)), dict(_leaves(new))
    paths = [*mine, *(p for p in yours if p not in mine)]
    return {p: [mine.get(p), yours.get(p)] for p in paths if p not in mine or p not in yours or mine[p] != yours[p]}


def _why(node: Node, before: Node | None, fresh: set[str]) -> list[str]:
    """Reasons for a new digest, its own first, then the inputs that are new."""
    if before is None:
        return ["is new in the graph"]
    why = sorted(differences(before.config, node.config))
    if before.version != node.version:
        why.append(f"version {before.version} → {node.version} of the step")
    if before.inputs != node.inputs:
        raw = node.step == "ingest"
        why += ["raw text"] if raw else [p for p in node.inputs if before.inputs.get(p) != node.inputs[p]]
    if before.parents != node.parents:
        why.append("reads other artifacts")
    return why + [f"→ {parent}" for parent in dict.fromkeys(node.parents.values()) if parent in fresh]


def compare(root: Path, before: State | None, after: State) -> Json:
    """What differs; without a state before, everything is new."""
    old, new = before.keys() if before else {}, after.keys()
    fresh = {label for label in new if old.get(label) != new[label]}
    changed = differences(before.recipe, after.recipe) if before else {}
    nodes = {
        label: {
            "step": node.step,
            "name": node.name,
            "stage": node.stage,
            "new": label in fresh,
            "why": _why(node, before.nodes.get(label) if before else None, fresh) if label in fresh else [],
        }
        for label, node in after.nodes.items()
    }
    return {
        "schema": SCHEMA,
        "base": before.revision if before else "",
        "head": after.revision,
        "recipe": {"changed": changed, "silent": [p for p in changed if p.startswith("compute.")]},
        "data": data.compare(root, before, after),
        "nodes": nodes,
        "gone": sorted(set(before.nodes) - set(after.nodes)) if before else [],
        "unwatched": after.unwatched,
    }


def touched(root: Path, base: str, head: str, params: str) -> list[str]:
    """Files that retraining looks at and that differ as text, whether or not it means anything."""
    names = git(root, "diff", "--name-only", base, head, "--").decode().splitlines()
    watched = (params, "dvc.yaml", "data.dvc")
    return [n for n in names if n in watched or n.startswith(("recipes/", "expectations/")) or n.endswith(".dvc")]


def between(root: Path, base: str, head: str, params: str) -> tuple[State | None, State, Json]:
    """Both states and what differs, from the common ancestor of the two revisions on."""
    head = commit(root, head)
    start = commit(root, base) if base else ""
    if start:
        start = git(root, "merge-base", start, head).decode().strip()
    with tempfile.TemporaryDirectory(prefix="mmenc-retrain.") as scratch:
        places = [Path(scratch) / name for name in ("base", "head")]
        for place in places:
            place.mkdir()
        after = read(root, head, params, places[1])
        before, lost = None, ""
        if start:
            try:
                before = read(root, start, params, places[0])
            except Refused as error:  # the first recipe of a repository, or one that was mended just now
                lost = str(error)
    found = compare(root, before, after)
    found["touched"] = touched(root, start, head, params) if start else []
    found["base"], found["base_refused"] = start, lost
    return before, after, found
