"""The form of a manifest's JSON (schema 1), looked at before anything in it is used.

Decision: types of keys and the keys that rows must have, nothing of their meaning, because a manifest that was cut, edited or
written by another program must be one sentence and not a traceback, in every command that reads one. 25 manifests of the
default run with their 464 languages take 2 ms; hashes and digests are for `Artifact.broken` and `mmenc lineage --verify`.
"""

# ruff: noqa: TRY004 (a wrong type in a file is a wrong value of the file)

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

KINDS: dict[str, type] = {
    "step": str,
    "name": str,
    "version": int,
    "digest": str,
    "content": str,
    "config": dict,
    "facts": dict,
    "files": dict,
    "parents": list,
    "inputs": list,
    "external": list,
}
ROWS: dict[str, dict[str, type]] = {
    "parents": {"role": str, "digest": str, "content": str},
    "inputs": {"path": str},
    "external": {"path": str, "uri": str, "bytes": int, "sha256": str},
}
CALLED = {str: "text", int: "a whole number", dict: "a mapping", list: "a list"}


def check_manifest(raw: Any) -> None:
    """Raise ValueError with a clause about the first thing that is not as schema 1 has it."""
    _check(raw, KINDS, "it")
    for key, kinds in ROWS.items():
        for number, row in enumerate(raw[key]):
            _check(row, kinds, f"{key}[{number}]")
    if other := next((name for name, sha256 in raw["files"].items() if not isinstance(sha256, str)), None):
        raise ValueError(f"files: the hash of {other} is no text")


def check_lineage(raw: Any) -> None:
    """Raise ValueError unless `lineage.json` maps digests to manifests that descend from one another without a circle."""
    if not isinstance(raw, dict):
        raise ValueError(f"it is {_called(raw)}, expected a mapping of manifests")
    for digest, node in raw.items():
        try:
            check_manifest(node)
        except ValueError as error:
            raise ValueError(f"{digest[:12]}: {error}") from None
    if circle := _in_circle(raw):
        raise ValueError(f"its manifests descend from one another in a circle, {circle[:12]} among them")


def _in_circle(nodes: Mapping[str, Any]) -> str:
    """A digest that descends from itself; an empty string if none does."""
    try:
        TopologicalSorter({digest: {p["digest"] for p in node["parents"]} for digest, node in nodes.items()}).prepare()
    except CycleError as error:
        return str(min(error.args[1]))
    return ""


def _check(raw: Any, kinds: Mapping[str, type], where: str) -> None:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {_called(raw)}, expected a mapping")
    for key, kind in kinds.items():
        if key not in raw:
            raise ValueError(f"{where} has no {key}")
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):
            raise ValueError(f"{key} is {_called(raw[key])}, expected {CALLED[kind]}")


def _called(value: Any) -> str:
    return "null" if value is None else CALLED.get(type(value), type(value).__name__)
