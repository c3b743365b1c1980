"""From a finished run to a release that others take: `collect` what a cluster has made, `promote` what was tried.

Decisions: `collect` walks the graph to the release with the results that lie in the recipe's store under the very digests, and
computes nothing: a result that is missing is a refusal. `promote` copies a release from one place that `mmenc push` wrote to
another, with its run records, verified on the way; what is promoted is what was measured, byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmenc.artifact import Json, write_json
from mmenc.errors import Refused
from mmenc.job import execute
from mmenc.push import MANIFEST, PUSH, push
from mmenc.recipe import Recipe, load
from mmenc.retrain.revision import Node, graph
from mmenc.steps import TABLE, find
from mmenc.store import Store


def _ancestors(nodes: dict[str, Node], label: str) -> list[str]:
    """A node and all that it descends from, parents first."""
    found: dict[str, None] = {}

    def walk(at: str) -> None:
        if at not in found:
            for parent in nodes[at].parents.values():
                walk(parent)
            found[at] = None

    walk(label)
    return list(found)


def _nodes(recipe: Recipe) -> dict[str, Node]:
    rows: Json = {s.name: {"params": s.params, "reads": s.reads, "raw": s.raw, "files": (), "source": ""} for s in TABLE.values()}
    return graph(Path(), recipe.model_dump(mode="json", by_alias=True), rows, {})[0]


def collect(params: Path, data: str) -> Path:
    """Bring the release of this recipe from its store, below artifacts/; `data` is the pointer that the run was given."""
    recipe = load(params)
    if not recipe.compute.store:
        raise Refused(f"{params}: compute.store: names no store, so there is nothing to collect from")
    nodes = _nodes(recipe)
    for label in _ancestors(nodes, "release"):
        node = nodes[label]
        step = find(f"{node.step}@{node.version}")
        places = {role: data if data and role in step.raw else place for role, place in node.roles.items()}
        execute(step, node.name, recipe, Path(node.out), places, compute=False)
    return Path(nodes["release"].out)


def _fetch(store: Store, name: str, target: Path) -> None:
    try:
        store.fetch(name, target)
    except FileNotFoundError:
        raise Refused(f"{store.uri(name)}: is missing, though {PUSH} lists it; push the release again") from None


def promote(source: str, target: str, also: Sequence[str] = ()) -> None:
    """Publish at `target`, which must be free, the release that lies at `source`; at `also` it replaces what is there."""
    store = Store(source)
    record, _ = store.read_json(PUSH)
    whole, _ = store.read_json(MANIFEST)
    if record is None or whole is None:
        raise Refused(
            f"{source}: holds no whole release; `mmenc push` writes one, and a tag needs the one of its own recipe and data"
        )
    with tempfile.TemporaryDirectory(prefix="mmenc-promote.") as folder:
        here = Path(folder)
        for name in [*record["files"], MANIFEST]:
            if not name.startswith("lineage/"):
                _fetch(store, name, here / "release" / name)
            elif name.startswith("lineage/runs/"):
                run, _ = store.read_json(name)
                write_json(here / "runs" / Path(name).stem / "run.json", run)
        for place in (target, *also):
            push(here / "release", place, runs=str(here / "runs"), replace=place in also)
