"""`continue` in place of a retraining: the last release learns the new text of a few languages, as a recipe of its own.

Decisions: it is offered where only raw text has changed, a release is named, and it costs less than what would retrain.
Its recipe is recipes/continue.yaml told for this change: `model.source` and `tokenizer.source` are the release; `learn`
and `decay` read the changed languages at most four times over (up to then repeated text is worth nearly as much as new:
arXiv 2305.16264), two thirds and one third, at a third of the first phase's learning rate, warmed up again since a
release has no optimizer state; a tenth of it is the pivot's text, against forgetting. It is another model than the
retrained one, and the comment says so.
"""

from __future__ import annotations

import json
from typing import Any

from mmenc.artifact import Json
from mmenc.costs import phase_costs
from mmenc.data.tokens import is_language
from mmenc.errors import Refused
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.plan import MANY_EPOCHS, Counts, make_plan
from mmenc.recipe import Recipe, parse
from mmenc.retrain.cost import KEYS, changed_languages
from mmenc.retrain.released import Released

REPEAT = 0.1
"""Share of the pivot's text."""
NEW_MASK, DECAY_MASK = 0.30, 0.05
"""mmBERT's first and last masking rate: to the model the text is new, then it settles."""
SLOWER = 3.0
"""The peak learning rate is that of the first phase divided by this."""


def offer(recipe: Recipe, changes: Json, costs: Json, found: Counts | None, last: Released | None) -> Json:
    """`{offered, reason, recipe, costs, release, languages}`: whether it is offered, and why not."""
    if reason := _against(changes, found, last):
        return {"offered": False, "reason": reason}
    assert found is not None
    assert last is not None
    try:
        made = recipe_of(recipe, changed_languages(changes), found, last)
        checked = parse(made, "continue")
        make_plan(checked, found)
    except Refused as error:
        return {"offered": False, "reason": f"its recipe would be refused ({error})"}
    parameters = parameter_counts(encoder_config(checked))["parameters"]
    rows = [{"tokens": p.tokens, **phase_costs(checked, p, parameters)} for p in checked.phases.values()]
    sums = {key: sum(row[key] for row in rows) for key in KEYS}
    if sums["gpu_hours"] >= costs["new"]["gpu_hours"]:
        return {"offered": False, "reason": "it would cost no less than retraining", "costs": sums}
    del made["validate"]["suites"]  # they are read from files beside the recipe
    said = {"languages": changed_languages(changes), "release": last.place, "name": last.name}
    return {"offered": True, "reason": "", "recipe": made, "costs": sums, **said}


def _against(changes: Json, found: Counts | None, last: Released | None) -> str:
    """Why it cannot be offered; empty if it can."""
    moved = sorted({p.split(".")[0] for p in changes["recipe"]["changed"] if not p.startswith("compute.")})
    if not changes["data"]["changed"]:
        return "no raw text has changed"
    if not changes["data"]["known"]:
        return "which languages have changed is not known: DVC's list of the files can be had neither from the cache nor a remote"
    if not changed_languages(changes):
        return "no language has new text"
    if moved:
        return f"the recipe has changed too ({', '.join(moved)}); a continued model would not have that"
    if last is None:
        return "no last release is named (`--release`, or `release.previous` in the recipe)"
    return "" if found else "nobody has counted tokens (`--counts`)"


def recipe_of(recipe: Recipe, languages: list[str], found: Counts, last: Released) -> Json:
    """The recipe that continues from a release with the text of some languages."""
    plain = recipe.model_dump(mode="json", by_alias=True)
    end = recipe.phases[recipe.merge.branches[-1]]
    pivot = _pivot(recipe, languages, found)
    available = sum(found.tokens.get(t, 0) for t in languages)
    total = int(MANY_EPOCHS * available / (1 - REPEAT))
    least = 2 * end.context  # one batch of two rows
    batch = max(least, min(end.batch_tokens, total // 30 // end.context * end.context))
    learn, decay = (max(batch, n) for n in (2 * total // 3, total // 3))
    peak = recipe.phases[next(iter(recipe.phases))].lr.peak / SLOWER
    shared: Json = {
        **plain["phases"][recipe.merge.branches[-1]],
        "languages": "own",
        "batch_tokens": batch,
        "epoch_cap": MANY_EPOCHS + 1,
        "buckets": {"repeat": {"share": REPEAT, "source": pivot}} if pivot else {},
        "changes": [],
    }
    shared.pop("batch_warmup", None)
    warm = {"peak": peak, "shape": "constant", "warmup": learn // 10}
    fall = {"peak": peak, "shape": "one_minus_sqrt", "end": end.lr.end}
    phases: dict[str, Any] = {
        "learn": {**shared, "init": "init", "tokens": learn, "mask": NEW_MASK, "lr": warm},
        "decay": {**shared, "init": "learn", "tokens": decay, "mask": DECAY_MASK, "lr": fall},
    }
    plain["tokenizer"].pop("extend", None)
    return {
        **plain,
        "languages": {"own": languages},
        "ingest": {**plain["ingest"], "languages": [*languages, *([pivot] if pivot else [])]},
        "validate": {**plain["validate"], "waivers": [w for w in plain["validate"]["waivers"] if w["language"] in languages]},
        "tokenizer": {**plain["tokenizer"], "source": last.place},
        "model": {**plain["model"], "source": last.place, "resize": "none"},
        "phases": phases,
        "merge": {**plain["merge"], "base": "learn", "branches": ["decay"], "method": "ties", "densities": [1.0]},
        # The gate asks for every language of the last release, and this recipe scores its own only.
        "release": {**plain["release"], "name": f"{recipe.release.name}-continued", "previous": "", "waivers": []},
    }


def _pivot(recipe: Recipe, languages: list[str], found: Counts) -> str:
    """What is repeated: the evaluation's pivot, else the language with the most text."""
    others = {t: n for t, n in found.tokens.items() if n and t not in languages and is_language(t)}
    pivot = recipe.evaluate.retrieval_pivot
    return pivot if pivot in others else max(others, key=lambda t: (others[t], t), default="")


def as_text(recipe: Json) -> str:
    """A recipe file; JSON is YAML, and keeps 8e-4 a number for every reader."""
    return json.dumps(recipe, indent=1, ensure_ascii=False) + "\n"
