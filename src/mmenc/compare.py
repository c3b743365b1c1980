"""Several models side by side, from their score rows: the page of `mmenc evaluate` and of `pipelines/evaluate.py`.

Decisions: bits per byte and retrieval only, because losses and accuracies of different tokenizers are of different
tokens; over the languages that every model with such figures was scored on, each in the first model's tier, because waves
such as `{top: 60}` depend on a tokenizer's counts. Differences and wins are paired by language, which is far tighter than
two means. A model without figures of a metric (no masked-LM head) is named with the reason and is part of no mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mmenc.artifact import Json
from mmenc.charts import bar_chart
from mmenc.errors import Refused
from mmenc.evaluate.rows import mean_interval
from mmenc.page import Cell, Html, Marked, details, page, table, tag
from mmenc.report.intrinsic import SCRIPT_FIGURES, matrix, matrix_text
from mmenc.report.results import METRICS

BITS = "mlm.bits_per_byte"
SHOWN = (BITS, "retrieval.accuracy", "retrieval.accuracy_centred", "pseudo.bits_per_byte")
OPTIONAL = ("pseudo.bits_per_byte",)
OWN = ("mlm.accuracy", "mlm.calibration_error")
CELLS = 4_000
"""Of the table of languages, at most: a page of eight models stays below 400 KB, which Kubeflow stores and shows whole."""
BARS, SCRIPTS = 160, 12
Figures = dict[str, dict[str, float]]
"""Figure by model and language."""
Triple = tuple[float, float, float]


def _by_language(scores: Mapping[str, Sequence[Json]], metric: str) -> Figures:
    """Rows of one metric, for the models that have any, of the languages that all of these have."""
    task, _, name = metric.partition(".")
    found = {
        model: {
            r["language"]: r["mean"]
            for r in rows
            if (r["task"], r["metric"], r["status"]) == (task, name, "ok") and r["language"]
        }
        for model, rows in scores.items()
    }
    measured = {model: row for model, row in found.items() if row}
    common = set.intersection(*(set(row) for row in measured.values())) if measured else set()
    return {model: {t: row[t] for t in sorted(common)} for model, row in measured.items()}


def _left_out(scores: Mapping[str, Sequence[Json]], metric: str, values: Figures) -> list[str]:
    """Say which models and how many languages a metric does not speak of, and why."""
    task, told = metric.partition(".")[0], dict[str, list[str]]()
    for model, rows in scores.items():
        reasons = Counter(r["reason"] for r in rows if r["status"] == "skipped" and r["task"] == task)
        if reasons:
            most, where = reasons.most_common(1)[0][0], ""
            if model in values:
                count = reasons.total()
                where = f" in {count} language{'s' if count != 1 else ''}"
                most = ", ".join(f"{n} × {why}" for why, n in reasons.most_common(3)) if len(reasons) > 1 else most
            told.setdefault(f"Not measured{where}: {{}} ({most}).", []).append(model)
    return [text.format(", ".join(models)) for text, models in told.items()]


def _tiers(scores: Mapping[str, Sequence[Json]]) -> tuple[list[str], dict[str, str]]:
    """Tiers in the recipe's order, which the means at the head of the rows have, and the tier of each language."""
    rows = next(iter(scores.values()))
    order = [tier for tier in dict.fromkeys(r["tier"] for r in rows) if tier != "all"]
    return [*order, "all"], {r["language"]: r["tier"] for r in rows if r["language"]}


def _cell(figure: Triple, scale: float, kind: str = "") -> Marked:
    mean, low, high = (scale * x for x in figure)
    digits = 1 if scale > 1 else 3
    return Marked(mean, kind, f"[{low:.{digits}f}, {high:.{digits}f}]" if high > low else "", digits)


def _means(values: Figures, members: Sequence[str], times: int, *names: object) -> dict[str, Triple]:
    return {model: mean_interval([row[t] for t in members], times, "compare", *names) for model, row in values.items()}


def _figure_row(found: Mapping[str, Triple], scale: float, more: bool) -> list[Cell]:
    means = [f[0] for f in found.values()]
    best = (max if more else min)(means) if max(means) > min(means) else None
    return [_cell(f, scale, "best" if f[0] == best else "") for f in found.values()]


def _wins(away: Mapping[str, float], more: bool) -> tuple[int, int]:
    """Languages in which a difference is for the better, and for the worse."""
    better = sum(1 for d in away.values() if d and (d > 0) == more)
    return better, sum(1 for d in away.values() if d) - better


def _metric(values: Figures, order: Sequence[str], tiers: Mapping[str, str], metric: str, times: int) -> list[str]:
    """The figures as bars and table, and their differences to the first model."""
    title, scale, more = METRICS[metric]
    models, rows, apart = list(values), list[list[Cell]](), list[list[Cell]]()
    bars: dict[str, dict[str, float | Triple]] = {m: {} for m in models}
    for tier in order:
        members = [t for t in values[models[0]] if tier in (tiers[t], "all")]
        if not members:
            continue
        found = _means(values, members, times, metric, tier)
        rows.append([tier, len(members), *_figure_row(found, scale, more)])
        for model, figure in found.items():
            mean, low, high = (scale * x for x in figure)
            bars[model][tier] = (mean, low, high)
        away = {m: {t: values[m][t] - values[models[0]][t] for t in members} for m in models[1:]}
        cells: list[Cell] = []
        for model, low_high in _means(away, members, times, metric, tier).items():
            sign = 0 if low_high[1] <= 0 <= low_high[2] else 1 if (low_high[0] > 0) == more else -1
            sign = sign if len(members) > 1 else 0
            words = {0: "no difference shown", 1: "better", -1: "worse"}[sign]
            shown, (won, lost) = _cell(low_high, scale), _wins(away[model], more)
            note = f"{shown.note} {words}; wins {won}, loses {lost}".strip()
            cells.append(Marked(shown.value, note=note, digits=shown.digits))
        apart.append([tier, *cells])
    parts: list[str] = [tag("h2", f"{title} ({'more' if more else 'less'} is better)"), bar_chart(bars, title)]
    parts.append(table(["tier", "languages", *models], rows, sortable=False))
    if len(models) > 1:
        head = ["tier", *(f"{m} minus {models[0]}" for m in models[1:])]
        parts += [tag("h3", f"Difference to {models[0]}, paired by language"), table(head, apart, sortable=False)]
    return parts


def _percent(figure: Triple) -> str:
    return f"[{100 * figure[1]:.1f}, {100 * figure[2]:.1f}] %"


def _duels(values: Figures, metric: str, times: int) -> list[str]:
    """In how many languages the model of a row beats that of a column."""
    title, _, more = METRICS[metric]
    rows: list[list[Cell]] = []
    for a, mine in values.items():
        row: list[Cell] = [a]
        for b, theirs in values.items():
            away = {t: mine[t] - theirs[t] for t in mine}
            won, lost = _wins(away, more)
            share = mean_interval([0.5 if not d else float((d > 0) == more) for d in away.values()], times, "duel", metric)
            kind = "" if len(away) < 2 else "ok" if share[1] > 0.5 else "bad" if share[2] < 0.5 else ""
            row.append(None if a == b else Marked(f"{won} : {lost}", kind, _percent(share)))
        rows.append(row)
    ties = "a tie counts half; ✓ and ✕ where the interval of the share won leaves a half out"
    head = [f"wins : losses of the row, {len(next(iter(values.values())))} languages", *values]
    return [
        tag("h3", f"Wins and losses by language: {title.lower()}"),
        f"{ties}.".capitalize(),
        table(head, rows, sortable=False),
    ]


def _scripts(values: Figures, metric: str, times: int) -> Html:
    """The same figures by script, those with the most languages first."""
    title, scale, more = METRICS[metric]
    every: dict[str, list[str]] = {}
    for t in next(iter(values.values())):
        every.setdefault(t.split("_")[1], []).append(t)
    order = sorted(every, key=lambda s: (-len(every[s]), s))
    rest = [t for s in order[SCRIPTS:] for t in every[s]]
    groups = {s: every[s] for s in order[:SCRIPTS]} | ({f"{len(order) - SCRIPTS} others": rest} if rest else {})
    rows: list[list[Cell]] = [
        [s, len(m), *_figure_row(_means(values, m, times, metric, s), scale, more)] for s, m in groups.items()
    ]
    return details(f"{title} by script", table(["script", "languages", *values], rows, sortable=False))


def _languages(values: Figures, tiers: Mapping[str, str], metric: str) -> list[str]:
    """Every language, those with the largest spread between models first: as bars while they are few, as a table."""
    title, scale, more = METRICS[metric]
    models = list(values)
    spread = {t: max(v[t] for v in values.values()) - min(v[t] for v in values.values()) for t in values[models[0]]}
    every = sorted(spread, key=lambda t: (-spread[t], t))
    order, first = every[: CELLS // (len(models) + 2)], every[: max(4, min(24, BARS // len(models)))]
    best = {t: (max if more else min)(v[t] for v in values.values()) for t in order}
    rows: list[list[Cell]] = []
    for t in order:
        starred = ("best" if values[m][t] == best[t] and spread[t] else "" for m in models)
        figures = [Marked(scale * values[m][t], kind, digits=3) for m, kind in zip(models, starred, strict=True)]
        rows.append([t, tiers.get(t, ""), *figures])
    told = f"{title} of {len(order)} of {len(spread)} languages, those where the models differ most first"
    parts: list[str] = [details(told, table(["language", "tier", *models], rows, find="find a language, a script, a tier"))]
    if len(models) > 1:
        where = f"{title}: the {len(first)} languages where the models differ most"
        parts.insert(0, details(where, bar_chart({m: {t: scale * values[m][t] for t in first} for m in models}, title)))
    return parts


def _about(about: Mapping[str, Json], scores: Mapping[str, Sequence[Json]]) -> list[str]:
    """What the models are, and figures that compare no models but belong to each."""
    rows: list[list[Cell]] = []
    for model, facts in about.items():
        total = {f"{r['task']}.{r['metric']}": r for r in scores[model] if r["tier"] == "all" and r["status"] == "ok"}
        own = [_cell((r["mean"], r["low"], r["high"]), 100.0) if (r := total.get(m)) else None for m in OWN]
        remark = "; ".join(x for x in (facts["reason"], facts["note"]) if x)
        rows.append([model, facts["kind"], *(facts[k] for k in ("parameters", "vocab", "context")), *own, remark])
    head = ["model", "kind", "parameters", "vocabulary", "context", *(SCRIPT_FIGURES[m][0] for m in OWN), "remark"]
    text = "Accuracy, loss, calibration and perplexity are of a model's own tokens: they do not compare across tokenizers."
    return [tag("h2", "The models"), table(head, rows, sortable=False), text]


def _retrieval(about: Mapping[str, Json]) -> list[str]:
    """Matrices of each model: whose documents find whose."""
    parts: list[str] = []
    for model, facts in about.items():
        if facts["retrieval"].get("scripts"):
            parts += [
                details(f"{model}: retrieval between {kind}", matrix(facts["retrieval"], kind)) for kind in ("scripts", "tiers")
            ]
    return (
        [tag("h2", "Retrieval, all pairs of languages"), matrix_text(next(iter(about.values()))["retrieval"]), *parts]
        if parts
        else []
    )


def compare(
    scores: Mapping[str, Sequence[Json]], times: int, about: Mapping[str, Json] | None = None
) -> tuple[str, dict[str, float]]:
    """The page, and headline figures; `scores` are the rows of each model itself, `times` the resamples of an interval.

    `about` says more of each model where that is known: its kind, its sizes, what its tokenizer loses, its retrieval.
    """
    (order, tiers), parts, headline = _tiers(scores), list[str](), dict[str, float]()
    parts.append(
        "Means over languages, each counting the same, with 95 % intervals over languages; ★ marks the best of a row. Masked "
        "tokens differ with the tokenizer, so bits are counted per byte of the text that they stand for."
    )
    parts += _about(about, scores) if about else []
    for metric in SHOWN:
        values = _by_language(scores, metric)
        if not values and metric in OPTIONAL:
            continue
        if not values or not next(iter(values.values())):
            if len(values) > 1:
                raise Refused(f"scores of {', '.join(values)}: no language was measured for all of them; expected one at least")
            told = _left_out(scores, metric, values)
            parts += [tag("h2", METRICS[metric][0]), " ".join(told) or f"{METRICS[metric][0]}: not measured."]
            continue
        parts += [*_metric(values, order, tiers, metric, times), *_left_out(scores, metric, values)]
        if about and metric.startswith("retrieval"):
            parts.append(f"Chance is {100 * next(iter(about.values()))['retrieval']['chance']:.1f} %.")
        parts += _duels(values, metric, times) if len(values) > 1 else []
        parts += [_scripts(values, metric, times), *(_languages(values, tiers, metric) if metric == BITS else [])]
        headline |= {f"{m}.{metric}": sum(row.values()) / len(row) for m, row in values.items()}
    parts += _retrieval(about) if about else []
    return page(f"Side by side: {', '.join(scores)}", [p if isinstance(p, Html) else tag("p", p) for p in parts]), headline
