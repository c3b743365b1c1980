"""Figures of a run as DVC reads them: metrics.json for `dvc metrics` and `dvc exp show`, curves for `dvc plots`.

Decision: they are part of the report and of nothing else, because the report depends on all other steps, and another file in a
training or an evaluation would have made every artifact anew. Few figures, so that `dvc exp show` fits a screen: the released
model's by tier, each phase's mean over languages, the held-out loss each phase ends with. One CSV per phase and kind, along
the tokens since the root: the branches of the tree overlap there and would be one zigzag in a single file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmenc.artifact import Json, write_json
from mmenc.report.story import Story

BITS = "mlm.bits_per_byte"
MEANS = {"accuracy": "mlm.accuracy", "retrieval": "retrieval.accuracy"}
"""Of these only the mean over all languages."""


def metrics(story: Story) -> Json:
    """What `dvc metrics` shows."""
    found: Json = {"bits_per_byte": _known({tier: story.figure("merge", BITS, tier) for tier in story.tiers})}
    found |= _known({name: story.figure("merge", key, "all") for name, key in MEANS.items()})
    found["bits_per_byte_after"] = _known({phase: story.figure(phase, BITS, "all") for phase in story.phases})
    found["heldout_loss"] = {phase: story.facts(f"train:{phase}")["heldout"][-1][1] for phase in story.phases}
    return found


def _known(figures: Mapping[str, tuple[float, float, float] | None]) -> dict[str, float]:
    return {name: found[0] for name, found in figures.items() if found}


def _write(path: Path, rows: Iterable[Iterable[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("tokens", "loss"), *rows])


def write(story: Story, out: Path) -> None:
    """Write metrics.json, curves/PHASE.csv and heldout/PHASE.csv."""
    write_json(out / "metrics.json", metrics(story))
    for phase in story.phases:
        facts = story.facts(f"train:{phase}")
        before = facts["total_tokens"] - facts["tokens"]
        for kind, key in (("curves", "curve"), ("heldout", "heldout")):
            _write(out / kind / f"{phase}.csv", ((before + tokens, loss) for tokens, loss in facts[key]))
