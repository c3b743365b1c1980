"""Runs ingest by itself on a folder, and reads what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenc import steps
from mmenc.artifact import Json, Manifest
from mmenc.data.shards import languages, read_documents, shard_paths
from mmenc.job import execute
from mmenc.recipe import Recipe, parse
from tests.pipeline import tiny_recipe


def recipe_of(folder: Path | str = "data", compute: Json | None = None, **ingest: Any) -> Recipe:
    recipe = tiny_recipe()
    recipe["ingest"] = {"root": str(folder), **ingest}
    recipe["compute"] |= {"threads": 1, "store_patience": 20} | (compute or {})
    return parse(recipe)


def ingest(data: Path | str, out: Path, compute: Json | None = None, **settings: Any) -> Manifest:
    """Run the step on `data`."""
    return execute(steps.find("ingest"), "", recipe_of(data, compute, **settings), out / "ingest", {"data": data})


def made(out: Path, kind: str = "shards") -> dict[str, list[Json]]:
    """Documents (or `rejected` ones) by language."""
    root = out / "ingest"
    if kind == "shards":
        return {name: [dict(d) for p in shard_paths(root, name) for d in read_documents(p)] for name in languages(root)}
    paths = sorted((root / "rejected").rglob("*.jsonl.zst"))
    found: dict[str, list[Json]] = {}
    for path in paths:
        found.setdefault(path.parent.name, []).extend(dict(d) for d in read_documents(path))
    return found
