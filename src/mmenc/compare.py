"""Several models side by side, from their score rows: what `pipelines/evaluate.py` ends with.

Decisions: bits per byte and retrieval only, because losses and accuracies of different tokenizers are of different
tokens; over the languages that every model was scored on, each in the first model's tier, because waves such as
`{top: 60}` depend on a tokenizer's counts. Differences are paired by language, which is far tighter than two means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.evaluate.rows import mean_interval
from mmenc.page import Cell, Html, Marked, details, page, table, tag
from mmenc.report.results import METRICS

SHOWN = ("mlm.bits_per_byte", "retrieval.accuracy", "retrieval.accuracy_centred")
ROWS = 6_000
"""Cells of the table per language: about 330 KB."""
Figures = dict[str, dict[str, float]]
"""Figure by model and language."""


def _by_language(scores: Mapping[str, Sequence[Json]], metric: str) -> Figures:
    """Rows of one metric, of the languages that all models have."""
    task, _, name = metric.partition(".")
    found = {
        model: {
            r["language"]: r["mean"]
            for r in rows
            if (r["task"], r["metric"], r["status"]) == (task, name, "ok") and r["language"]
        }
        for model, rows in scores.items()
    }
    common = set.intersection(*(set(row) for row in found.values()))
    return {model: {t: row[t] for t in sorted(common)} for model, row in found.items()}


def _tiers(scores: Mapping[str, Sequence[Json]]) -> tuple[list[str], dict[str, str]]:
    """Tiers in the recipe's order, which the means at the head of the rows have, and the tier of each language."""
    rows = next(iter(scores.values()))
    order = [tier for tier in dict.fromkeys(r["tier"] for r in rows) if tier != "all"]
    return [*order, "all"], {r["language"]: r["tier"] for r in rows if r["language"]}


def _cell(figure: tuple[float, float, float], scale: float, kind: str = "") -> Marked:
    mean, low, high = (scale * x for x in figure)
    digits = 1 if scale > 1 else 3
    return Marked(mean, kind, f"[{low:.{digits}f}, {high:.{digits}f}]", digits)


def _means(values: Figures, members: Sequence[str], times: int, *names: object) -> dict[str, tuple[float, float, float]]:
    return {model: mean_interval([row[t] for t in members], times, "compare", *names) for model, row in values.items()}


def _metric(values: Figures, order: Sequence[str], tiers: Mapping[str, str], metric: str, times: int) -> list[str]:
    """Two tables: the figures, and their differences to the first model."""
    title, scale, more = METRICS[metric]
    models, rows, apart = list(values), list[list[Cell]](), list[list[Cell]]()
    for tier in order:
        members = [t for t in values[models[0]] if tier in (tiers[t], "all")]
        if not members:
            continue
        found = _means(values, members, times, metric, tier)
        means = [f[0] for f in found.values()]
        best = (max if more else min)(means) if max(means) > min(means) else None
        rows.append([tier, len(members), *(_cell(f, scale, "best" if f[0] == best else "") for f in found.values())])
        away = {m: {t: values[m][t] - values[models[0]][t] for t in members} for m in models[1:]}
        cells: list[Cell] = []
        for low_high in _means(away, members, times, metric, tier).values():
            sign = 0 if low_high[1] <= 0 <= low_high[2] else 1 if (low_high[0] > 0) == more else -1
            words = {0: "no difference shown", 1: "better", -1: "worse"}[sign]
            shown = _cell(low_high, scale)
            cells.append(Marked(shown.value, note=f"{shown.note} {words}", digits=shown.digits))
        apart.append([tier, *cells])
    parts: list[str] = [tag("h2", f"{title} ({'more' if more else 'less'} is better)")]
    parts.append(table(["tier", "languages", *models], rows, sortable=False))
    if len(models) > 1:
        head = ["tier", *(f"{m} minus {models[0]}" for m in models[1:])]
        parts += [tag("h3", f"Difference to {models[0]}, paired by language"), table(head, apart, sortable=False)]
    return parts


def _languages(values: Figures) -> Html:
    """Every language, those with the largest spread between models first."""
    models = list(values)
    spread = {t: max(v[t] for v in values.values()) - min(v[t] for v in values.values()) for t in values[models[0]]}
    order = sorted(spread, key=lambda t: (-spread[t], t))[: ROWS // (len(models) + 1)]
    rows: list[list[Cell]] = [[t, *(Marked(values[m][t], digits=3) for m in models)] for t in order]
    title = f"Bits per byte of {len(order)} of {len(spread)} languages, those where the models differ most first"
    return details(title, table(["language", *models], rows, find="find a language"))


def compare(scores: Mapping[str, Sequence[Json]], times: int) -> tuple[str, dict[str, float]]:
    """The page, and headline figures; `scores` are the rows of each model itself, `times` the resamples of an interval."""
    (order, tiers), parts, headline = _tiers(scores), list[str](), dict[str, float]()
    parts.append(
        "Means over languages, each counting the same, with 95 % intervals over languages; ★ marks the best of a row. Masked "
        "tokens differ with the tokenizer, so bits are counted per byte of the text that they stand for."
    )
    for metric in SHOWN:
        values = _by_language(scores, metric)
        if not next(iter(values.values())):
            if metric == SHOWN[0]:
                raise Refused(f"scores of {', '.join(scores)}: no language was measured for all of them; expected one at least")
            parts.append(f"{METRICS[metric][0]}: not measured, there are too few parallel documents.")
            continue
        parts += _metric(values, order, tiers, metric, times)
        headline |= {f"{m}.{metric}": sum(row.values()) / len(row) for m, row in values.items()}
    parts.append(_languages(_by_language(scores, SHOWN[0])))
    names = ", ".join(scores)
    return page(f"Side by side: {names}", [p if isinstance(p, Html) else tag("p", p) for p in parts]), headline
