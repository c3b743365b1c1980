"""A step that gives another result for the same request must raise its version; this notices when that was forgotten.

`golden.json` holds, for the tiny run, each artifact's digest and what came out: the content where the result is the same
on every machine, figures where it is made of floats (they may differ by machine in the last bits, not by a hundredth).
After a deliberate change: raise the version in src/mmenc/steps.py (and in dvc.yaml), then
`MMENC_GOLDEN=write python -m pytest tests/contract/test_golden.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmenc.artifact import read_json

GOLDEN = Path(__file__).with_name("golden.json")
EXACT = ("ingest", "clean", "tokenizer", "tokenize", "mixture")


def figures(manifest: dict) -> dict:
    facts = manifest["facts"]
    if manifest["step"] == "train":
        return {"tokens": facts["tokens"], "steps": facts["steps"], "heldout": [h[1] for h in facts["heldout"]]}
    if manifest["step"] == "evaluate":
        return facts["tiers"]["all"]
    if manifest["step"] == "merge":
        return {"dev_loss": facts["chosen"]["dev_loss"]}
    if manifest["step"] == "validate":
        return {"languages": facts["languages"]}
    return {}


def found(finished: Path) -> dict:
    rows = {}
    for path in sorted((finished / "artifacts").rglob("manifest.json")):
        manifest = read_json(path)
        if manifest["step"] in ("report", "release"):
            continue
        row = {"digest": manifest["digest"]}
        row |= {"content": manifest["content"]} if manifest["step"] in EXACT else {"figures": figures(manifest)}
        rows[str(path.parent.relative_to(finished / "artifacts"))] = row
    return rows


def near(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(near(x, y) for x, y in zip(a, b, strict=True))
    return a == pytest.approx(b, abs=0.02)


def test_the_same_request_gives_the_same_result_as_when_the_version_was_last_raised(finished: Path):
    now = found(finished)
    if os.environ.get("MMENC_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert now.keys() == golden.keys()
    for name, row in now.items():
        if row["digest"] != golden[name]["digest"]:
            pytest.fail(f"{name}: the tiny recipe, the schema or a version changed; regenerate golden.json (see the docstring)")
        same = row.get("content") == golden[name].get("content") and near(row.get("figures"), golden[name].get("figures"))
        assert same, f"{name}: another result under the same version; raise it in src/mmenc/steps.py"
