"""The plan and cost of making everything again without some documents, known before anything runs.

Decision: a digest follows from config, inputs and the parents' digests alone, so every new digest is computed here from the
manifests with `ingest.forget` set, and nothing is promised that `dvc repro` would not do. All that descends from ingest gets a
new one: there is no sound way to take a document out of weights, and no step reuses an old result under a new digest. GPU hours
and money are those of `mmenc plan`; wall time is what the last run of each step took.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmenc.artifact import Artifact, Json, Parent, Request
from mmenc.errors import Refused
from mmenc.lineage import label
from mmenc.plan import counts_for, make_plan
from mmenc.recipe import load


def new_digests(chain: dict[str, Artifact], ids: list[str]) -> dict[str, str]:
    """The digest that each artifact of the chain has without these documents, by its present one."""
    found: dict[str, str] = {}

    def of(digest: str) -> str:
        if digest not in chain:
            return digest
        if digest not in found:
            m = chain[digest].manifest
            config = m.config
            if m.step == "ingest":
                known = config["ingest"].get("forget", [])
                config = {"ingest": {**config["ingest"], "forget": sorted({*known, *ids})}}
            parents = tuple(Parent(p.role, of(p.digest), p.content) for p in m.parents)
            found[digest] = Request(m.step, m.name, m.version, config, parents, tuple(m.inputs)).digest
        return found[digest]

    for digest in chain:
        of(digest)
    return found


def plan(root: Path, chain: dict[str, Artifact], ids: list[str], params: Path) -> Json:
    """Steps that run again with their old and new digests, and what that costs."""
    steps = []
    for old, new in new_digests(chain, ids).items():
        seconds = _seconds(root / ".runs" / old / "run.json")
        name = label(chain[old].manifest.json())
        if old != new:
            steps.append({"step": name, "digest": old, "new_digest": new, "seconds": seconds})
    known = [s["seconds"] for s in steps if s["seconds"] is not None]
    return {"steps": steps, "seconds": sum(known), "steps_without_time": len(steps) - len(known), **_cost(chain, params)}


def _seconds(record: Path) -> float | None:
    """How long a step took; None where no record says so, or a damaged one."""
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cost(chain: dict[str, Artifact], params: Path) -> Json:
    """What `mmenc plan` says of the recipe, with the token counts of these very artifacts if there are some."""
    try:
        recipe = load(params)
        tokens = next((a for a in chain.values() if a.manifest.step == "tokenize"), None)
        counts = (
            {f: row["train"]["tokens"] for f, row in tokens.facts["folders"].items()} if tokens else counts_for(recipe, params)
        )
        totals = make_plan(recipe, counts)["totals"]
    except Refused as error:
        return {"gpu_hours": None, "cost": None, "currency": "", "no_cost": str(error)}
    return {"gpu_hours": totals["gpu_hours"], "cost": totals["cost"], "currency": totals["currency"]}
