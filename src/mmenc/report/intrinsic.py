"""The report's finer view of the evaluation: what each phase brought, by script, retrieval of all pairs, calibration.

Decisions: a language is new in the first phase whose set has it; what a phase brought is its figure minus that of the
checkpoint it started from, paired by language. Random weights know nothing: the first phase's "before" is then a uniform
guess, whose bits per byte follow from loss and bits of the same tokens; a model that was taken over was not measured.
Intervals are bootstraps over languages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmenc.artifact import Json
from mmenc.charts import line_chart
from mmenc.evaluate.rows import mean_interval
from mmenc.page import Cell, Html, Marked, details, number, table, tag
from mmenc.report.story import Story

BITS = "mlm.bits_per_byte"
UNIFORM = "a uniform guess"
MOST = 12
"""Scripts of a matrix that are shown by themselves; `retrieval.npz` has every language."""
SCRIPT_FIGURES = {
    BITS: ("bits per byte", 1.0, 3),
    "mlm.accuracy": ("accuracy %", 100.0, 1),
    "mlm.calibration_error": ("calibration error %", 100.0, 1),
    "retrieval.accuracy": ("retrieval %", 100.0, 1),
    "retrieval.accuracy_centred": ("centred %", 100.0, 1),
}


def introduced(story: Story) -> dict[str, list[str]]:
    """Languages under the first phase whose set has them; those of no phase are left out."""
    sets = list(story.recipe.languages)
    found: dict[str, list[str]] = {}
    for language, tier in story.languages.items():
        reach = (p for p, phase in story.recipe.phases.items() if tier in sets[: sets.index(phase.languages) + 1])
        if (first := next(reach, None)) is not None:
            found.setdefault(first, []).append(language)
    return {p: found[p] for p in story.recipe.phases if p in found}


def _pair(story: Story, phase: str, language: str) -> tuple[float, float] | None:
    """Bits per byte before and after a phase."""
    tier, before = story.languages[language], story.recipe.phases[phase].init
    after = story.figure(phase, BITS, tier, language)
    if before != "init":
        earlier = story.figure(before, BITS, tier, language)
        return (earlier[0], after[0]) if earlier and after else None
    loss = story.figure(phase, "mlm.loss", tier, language)
    if not (after and loss and loss[0]):
        return None
    return after[0] * math.log(story.facts("tokenizer")["vocab_size"]) / loss[0], after[0]


def _gain(pairs: Sequence[tuple[float, float]], times: int, *names: object) -> Cell:
    if not pairs:
        return None
    away = [after - before for before, after in pairs]
    mean, low, high = mean_interval(away, times, "brought", *names)
    kind = "" if low <= 0 <= high or len(away) < 2 else "ok" if mean < 0 else "bad"
    return Marked(mean, kind, f"[{low:.3f}, {high:.3f}], {sum(d < 0 for d in away)} of {len(away)} better", 3)


def brought(story: Story) -> list[str]:
    """Each phase against the checkpoint that it started from, by the phase that introduced the languages."""
    groups, times = introduced(story), story.recipe.evaluate.bootstrap
    rows: list[list[Cell]] = []
    each: list[str] = []
    taken = story.recipe.model.source != "random"
    unmeasured = [p for p in story.phases if taken and story.recipe.phases[p].init == "init"]
    for phase in (p for p in story.phases if p not in unmeasured):
        init = story.recipe.phases[phase].init
        before = UNIFORM if init == "init" else init
        pairs = {g: {t: p for t in tags if (p := _pair(story, phase, t))} for g, tags in groups.items()}
        if any(pairs.values()):
            rows.append([phase, before, *(_gain(list(found.values()), times, phase, g) for g, found in pairs.items())])
        if new := pairs.get(phase):
            order = sorted(new, key=lambda t: (new[t][1] - new[t][0], t))
            listed: list[list[Cell]] = [[t, *(Marked(x, digits=3) for x in (*new[t], new[t][1] - new[t][0]))] for t in order]
            title = f"{phase}: its {len(order)} new language{'s' if len(order) != 1 else ''}, those that gain most first"
            each.append(details(title, table(["language", before, phase, "difference"], listed, find="find a language")))
    left = f"Without {', '.join(unmeasured)}: the model that was taken over was not evaluated before. " if unmeasured else ""
    if not rows:
        return [left or "The phases were not evaluated."]
    text = (
        "Bits per byte of test text after a phase minus before it, paired by language on the same masked tokens (below zero is "
    )
    text += (
        "better); columns are the languages that a phase introduced. [low, high] is the 95 % interval over languages; ✓ better "
    )
    text += "and ✕ worse where it leaves zero out. " + left
    head = ["phase", "from", *(f"new in {g} ({len(tags)})" for g, tags in groups.items())]
    return [text, table(head, rows, sortable=False), *each]


def script_table(by_script: Json) -> Html:
    """Figures per script with their intervals over languages."""
    known = {m: shown for m, shown in SCRIPT_FIGURES.items() if any(m in found for found in by_script.values())}
    rows: list[list[Cell]] = []
    for script, found in by_script.items():
        row: list[Cell] = [script, max(int(f[3]) for f in found.values())]
        for metric, (_, scale, digits) in known.items():
            figure = found.get(metric)
            spread = (
                f"[{scale * figure[1]:.{digits}f}, {scale * figure[2]:.{digits}f}]" if figure and figure[2] > figure[1] else ""
            )
            row.append(Marked(scale * figure[0], note=spread, digits=digits) if figure else None)
        rows.append(row)
    return table(["script", "languages", *(title for title, _, _ in known.values())], rows)


def scripts(story: Story) -> list[str]:
    """The released model by script."""
    found = story.facts("evaluate:merge").get("by_script")
    if not found:
        return ["Figures by script were not measured."]
    return ["The released model; every language of a script counts the same.", script_table(found)]


def _shortened(
    names: Sequence[str], sizes: Sequence[int], rows: Mapping[str, Sequence[float | None]]
) -> tuple[list[str], list[list[Cell]]]:
    """The first names of a matrix; the rest stays in the file."""
    kept = list(names[:MOST])
    body: list[list[Cell]] = []
    for name, size in zip(kept, sizes, strict=False):
        figures = (None if v is None else Marked(100 * v, digits=1) for v in rows[name][: len(kept)])
        body.append([f"{name} ({size})", *figures])
    return kept, body


def matrix(retrieval: Json, kind: str) -> Html:
    """Retrieval between all pairs of languages, as means by script or tier: plain and centred."""
    found, parts = retrieval[kind], list[Html]()
    for metric, title in (("accuracy", "Plain"), ("accuracy_centred", "Each language's mean embedding subtracted")):
        names, body = _shortened(found["names"], found["languages"], found[metric])
        flat = [c.value for row in body for c in row[1:] if isinstance(c, Marked) and isinstance(c.value, float)]
        span = (100 * retrieval["chance"], max(flat, default=0.0))
        parts += [tag("h3", title), table([kind, *names], body, sortable=False, heat=names, scale=span)]
    rest = len(found["names"]) - MOST
    note = f"{rest} more {kind} are in the artifact." if rest > 0 else ""
    return Html("".join([*parts, tag("p", note) if note else ""]))


def matrix_text(retrieval: Json) -> str:
    """What a matrix shows."""
    return (
        f"How often one of {retrieval['documents']} held-out documents finds its translation, %, the mean over all pairs of two "
        f"different languages of a row's and a column's kind, both directions; number of languages in brackets. The shade runs "
        f"from chance ({100 * retrieval['chance']:.1f} %) to the largest figure; retrieval.npz has every pair of the "
        f"{number(retrieval['languages'])} languages."
    )


def pairs(story: Story) -> list[str]:
    """Retrieval between scripts and between tiers, of the released model."""
    retrieval = story.facts("evaluate:merge")["retrieval"]
    if not retrieval.get("scripts"):
        return ["Retrieval of all pairs was not measured."]
    return [matrix_text(retrieval), matrix(retrieval, "tiers"), matrix(retrieval, "scripts")]


def calibration(story: Story) -> list[str]:
    """How often the likeliest token is right, over how likely the models hold it."""
    names = [m for m in ("merge", *story.branches, story.recipe.merge.base) if f"evaluate:{m}" in story.steps]
    found = {m: story.facts(f"evaluate:{m}").get("calibration") for m in names}
    lines = {m: [(b["confidence"], b["accuracy"]) for b in bins] for m, bins in found.items() if bins}
    if not lines:
        return ["Calibration was not measured."]
    text = "Masked test tokens in 15 bins by the probability of the likeliest token, every language counting the same: its mean, "
    text += (
        "and how often it is right. Above the line of perfect calibration a model knows more than it says. A bin may hold few "
    )
    text += "tokens; the expected calibration error among the results weighs them."
    chart = line_chart({**lines, "perfect": [(0.0, 0.0), (1.0, 1.0)]}, "probability of the likeliest token", "share right")
    return [text, chart]
