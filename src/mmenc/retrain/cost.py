"""What the retraining of a change costs, by the plan's own formulas, and what is kept.

Decisions: costs need no counts of tokens (`mmenc.costs`: FLOPs of the recipe), so they are always said. The mix of
languages does: counts come from `--counts`, the recipe's file, `artifacts/tokenize`, or the last release's lineage;
where raw text has changed since, a language's count grows with its bytes, and a new language gets the median tokens per
byte of the others. That is an estimate, and called one. Only training is counted, as by `mmenc plan`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mmenc.artifact import Json
from mmenc.costs import phase_costs
from mmenc.data.tokens import is_language
from mmenc.errors import Refused
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.plan import Counts, counts_for, make_plan
from mmenc.recipe import Recipe
from mmenc.retrain.released import Released

BYTES_PER_TOKEN, TRAIN = 4.0, 0.9
"""Of a language that nobody has counted, where no other one has changed; the share of documents that are trained on."""
KEYS = ("tokens", "flops", "gpu_hours", "hours", "cost", "kwh")


def counts(recipe: Recipe, params: Path, file: Path | None, last: Released | None, changes: Json) -> Counts | None:
    """Tokens available after the change; None where nobody has counted."""
    try:
        found = counts_for(recipe, params, file)
    except Refused:
        if file is not None or recipe.compute.counts:
            raise
        if last is None or not last.tokens():
            return None
        found = Counts(last.tokens(), f"the lineage of {last.name}")
    return found if file is not None else _grown(found, changes["data"]["languages"])


def _grown(found: Counts, languages: Mapping[str, Json]) -> Counts:
    """Counts after a change of raw text."""
    tokens, ratios = dict(found.tokens), list[float]()
    for folder, row in languages.items():
        old, new = row["bytes"]
        if old and new and tokens.get(folder):
            ratios.append(tokens[folder] / old)
            tokens[folder] = round(tokens[folder] * new / old)
    ratio = statistics.median(ratios) if ratios else TRAIN / BYTES_PER_TOKEN
    for folder, row in languages.items():
        if row["state"] == "new" and row["bytes"][1] and folder not in tokens:
            tokens[folder] = round(ratio * row["bytes"][1])
        if row["state"] == "gone":
            tokens.pop(folder, None)
    said = f"{found.source}, estimated for the raw text that has changed since" if languages else found.source
    return replace(found, tokens=tokens, source=said)


def costs(recipe: Recipe, changes: Json) -> Json:
    """`{phases: {NAME: {new, tokens, …}}, new, kept, all, currency, …}` of training."""
    parameters = parameter_counts(encoder_config(recipe))["parameters"]
    phases: Json = {}
    for name, phase in recipe.phases.items():
        planned = phase_costs(recipe, phase, parameters)
        fresh = changes["nodes"][f"train {name}"]["new"]
        phases[name] = {"new": fresh, "tokens": phase.tokens, **{k: planned[k] for k in KEYS if k in planned}}
    sums = {
        part: {k: sum(row[k] for row in phases.values() if row["new"] in which) for k in KEYS}
        for part, which in (("new", (True,)), ("kept", (False,)), ("all", (True, False)))
    }
    compute = recipe.compute
    machine = {"currency": compute.currency, "price_per_hour": compute.price_per_hour}
    return {"phases": phases, **sums, **machine, "accelerator": compute.accelerator, "accelerators": compute.accelerators}


def plan(recipe: Recipe, found: Counts | None) -> Json:
    """What `mmenc plan` says of the changed recipe: `{source, warnings, refused, phases: {NAME: [languages]}}`."""
    empty: Json = {"source": "", "warnings": [], "refused": "", "reads": {}}
    if found is None:
        return empty
    try:
        made = make_plan(recipe, found)
    except Refused as error:
        return {**empty, "source": found.source, "refused": str(error)}
    reads = {n: sorted(t for t, r in p["languages"].items() if r["tokens"]) for n, p in made["phases"].items()}
    return {"source": found.source, "warnings": made["warnings"], "refused": "", "reads": reads}


def changed_languages(changes: Json) -> list[str]:
    """Languages with new text: what there is to learn."""
    return [t for t, row in changes["data"]["languages"].items() if row["state"] != "gone" and is_language(t)]
