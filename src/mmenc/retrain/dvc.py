"""DVC's own opinion beside ours: which stages `dvc repro` would run, from what `dvc status --json` prints.

Decision: ours is by digest, DVC's by files. It runs more where a folder is a dependency (`merge` reads
`artifacts/train`, all phases of it) or a value is written otherwise, and such a stage finds its artifact up to date
within a second; it runs less where it does not look (a default of the schema, `model.source`), and then `dvc repro -f
STAGE` is needed. Both are said.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.retrain.revision import Node, State

ABSENT = ("deleted", "not in cache")
"""What a checkout without artifacts or data reports of each: no change of the repository."""


def direct(status: Json) -> set[str]:
    """Stages that changed by themselves, artifacts that are merely not here left aside."""
    found: set[str] = set()
    for stage, rows in status.items():
        for row in rows:
            if row in ("changed command", "changed checksum"):
                found.add(stage)
                continue
            for dep, state in row.get("changed deps", {}).items() if isinstance(row, dict) else ():
                if isinstance(state, dict) or (state not in ABSENT and not dep.startswith("artifacts/")):
                    found.add(stage)
    return found


def _reads(node: Node, out: str) -> bool:
    return any(out == dep or out.startswith(f"{dep}/") for dep in node.deps)


def would_run(state: State, begun: set[str]) -> set[str]:
    """Stages that change, and all that read what they write."""
    found = {label for label, node in state.nodes.items() if node.stage in begun}
    while more := {
        label
        for label, node in state.nodes.items()
        if label not in found and any(_reads(node, state.nodes[f].out) for f in found)
    }:
        found |= more
    return {state.nodes[label].stage for label in found}


def opinion(file: Path, state: State, changes: Json) -> Json:
    """`{run, idle, unseen}`: what DVC would run, of it what is up to date by digest, and what it would not notice."""
    try:
        status: Json = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{file}: cannot be read ({error}); expected what `dvc status --json` prints") from None
    run = would_run(state, direct(status))
    new = {n["stage"] for n in changes["nodes"].values() if n["new"]}
    return {"run": sorted(run), "idle": sorted(run - new), "unseen": sorted(new - run)}
