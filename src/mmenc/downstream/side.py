"""Models side by side on downstream tasks, from their score rows: `tasks.html` of `mmenc evaluate --suite`.

Decisions: everything is read from rows and `runs.json`'s seconds, so the page can say nothing that the files do not. Shares
are printed as per cent, figures of speed as they are. A ★ stands only where all models of a row have a figure over the same
number of languages. Averages over tasks are those that the suites name; one that lacks a task has no figure but its reason.
The table of languages of a task is shut until it is asked for; the chart draws at most 24 languages, where models differ most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmenc.artifact import Json
from mmenc.charts import bar_chart
from mmenc.page import Cell, Html, Marked, details, number, page, table, tag

TEMPO = ("tokens_per_second", "packed_over_padded")
"""Metrics that are no shares."""
AVERAGE = "/average"
BARS = 24
Rows = Sequence[Json]
Place = tuple[str, str]
"""Task and metric."""


def scale(metric: str) -> float:
    """What a figure is multiplied by to be read."""
    return 1.0 if metric.startswith(TEMPO) else 100.0


def digits(metric: str) -> int:
    """Decimals that are shown."""
    return 0 if metric.startswith(TEMPO[0]) else 1


def text(r: Json | None) -> str:
    """A figure with its interval, or why there is none."""
    if r is None:
        return "–"
    if r["status"] != "ok":
        return str(r["reason"])
    mean, low, high = (f"{scale(r['metric']) * r[k]:,.{digits(r['metric'])}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _marked(r: Json | None, best: bool = False, note: bool = True) -> Cell:
    if r is None or r["status"] != "ok":
        return None
    by, places = scale(r["metric"]), digits(r["metric"])
    interval = f"[{by * r['low']:,.{places}f}, {by * r['high']:,.{places}f}]" if note and r["high"] > r["low"] else ""
    return Marked(by * r["mean"], "best" if best else "", interval, places)


def _cells(every: Sequence[Json | None], note: bool = True) -> list[Cell]:
    """A row of figures, one per model; the best has a star where all are comparable."""
    measured = [r for r in every if r is not None and r["status"] == "ok"]
    fair = len(every) > 1 and len(measured) == len(every) and len({r["n"] for r in measured}) == 1
    top = max((r["mean"] for r in measured), default=0.0)
    found: list[Cell] = []
    for r in every:
        starred = fair and r is not None and r["mean"] == top and any(m["mean"] != top for m in measured)
        found.append(_marked(r, starred, note))
    return found


def _is_total(r: Json) -> bool:
    return r["tier"] == "all" and not r["language"]


def _places(rows: Rows) -> list[Place]:
    """Tasks and metrics that have a figure, in the order of the rows."""
    return list(dict.fromkeys((r["task"], r["metric"]) for r in rows if r["status"] == "ok"))


def _picked(rows: Rows, place: Place, models: Sequence[str]) -> list[Json | None]:
    found = {r["model"]: r for r in rows if (r["task"], r["metric"]) == place and r["status"] == "ok"}
    return [found.get(m) for m in models]


def _models(about: Mapping[str, Json], seconds: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows: list[list[Cell]] = [
        [m, f["kind"], f["parameters"], f["vocab"], f["context"], round(sum(seconds[m].values()), 1), f["note"]]
        for m, f in about.items()
    ]
    head = ["model", "kind", "parameters", "vocabulary", "context", "seconds", "remark"]
    return [tag("h2", "The models"), table(head, rows, sortable=False)]


def _averages(rows: Rows, models: Sequence[str]) -> list[str]:
    """Averages over tasks by name, and what those without a figure lack."""
    totals = [r for r in rows if _is_total(r) and r["task"].endswith(AVERAGE)]
    if not totals:
        return []
    parts: list[str] = [tag("h2", "Averages over tasks")]
    body: list[list[Cell]] = [
        [task, metric, *_cells(_picked(totals, (task, metric), models))] for task, metric in _places(totals)
    ]
    if body:
        parts.append(table(["average", "which", *models], body, sortable=False))
    lacking = dict.fromkeys((r["task"], r["reason"]) for r in totals if r["status"] == "skipped")
    return [*parts, *(f"No {task}: {reason}." for task, reason in lacking)]


def _means(rows: Rows, models: Sequence[str]) -> list[str]:
    """Means over languages of every task, as bars (its first metric) and as a table."""
    totals = [r for r in rows if _is_total(r) and not r["task"].endswith(AVERAGE)]
    places = _places(totals)
    body: list[list[Cell]] = []
    for place in places:
        every = _picked(totals, place, models)
        count = " / ".join(dict.fromkeys(str(r["n"]) for r in every if r))
        body.append([place[0], place[1], count, *_cells(every)])
    if not body:
        return []
    chosen = [p for i, p in enumerate(places) if scale(p[1]) > 1 and p[0] not in {q[0] for q in places[:i]}]
    bars = {m: {t: _triple(r) for t, k in chosen if (r := _picked(totals, (t, k), [m])[0])} for m in models}
    chart = [bar_chart(bars, "per cent, the first metric of each task")] if chosen else []
    head = ["task", "metric", "languages (of speed: repeats)", *models]
    return [tag("h2", "Means over languages"), *chart, table(head, body, sortable=False)]


def _triple(r: Json) -> tuple[float, float, float]:
    by = scale(r["metric"])
    return by * r["mean"], by * r["low"], by * r["high"]


def _languages(rows: Rows, models: Sequence[str]) -> list[str]:
    """Every language of every task."""
    single, parts = [r for r in rows if r["language"]], list[str]()
    for task, metric in _places(single):
        mine = [r for r in single if (r["task"], r["metric"]) == (task, metric) and r["status"] == "ok"]
        figure = {(r["language"], r["model"]): r for r in mine}
        tiers = {r["language"]: r["tier"] for r in mine}
        body: list[list[Cell]] = []
        for t in sorted(tiers):
            every = [figure.get((t, m)) for m in models]
            body.append([t, tiers[t], max(r["n"] for r in every if r), *_cells(every)])
        head = ["language", "tier", "examples", *models]
        inner = [table(head, body, find="find a language, a script, a tier")]
        common = [t for t in tiers if all((t, m) in figure for m in models)]
        spread = {t: max(figure[t, m]["mean"] for m in models) - min(figure[t, m]["mean"] for m in models) for t in common}
        drawn = sorted(spread, key=lambda t: (-spread[t], t))[:BARS]
        if len(drawn) > 1:
            inner.insert(0, bar_chart({m: {t: _triple(figure[t, m]) for t in drawn} for m in models}, f"{task}, {metric}"))
        parts.append(details(f"{task}, {metric}: {len(body)} languages", Html("".join(inner))))
    return [tag("h2", "By language"), *parts] if parts else []


def _time(seconds: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for spent in seconds.values() for name in spent))
    body: list[list[Cell]] = [[name, *(_seconds(spent.get(name)) for spent in seconds.values())] for name in names]
    text = "Wall time where it ran: choosing the learning rate, all seeds, tests; runs that were finished before count too."
    return [tag("h2", "Seconds per task"), text, table(["training or suite", *seconds], body, sortable=False)] if body else []


def _seconds(value: float | None) -> Cell:
    return None if value is None else Marked(value, digits=1)


def _protocols(rows: Rows, models: Sequence[str]) -> list[str]:
    """Protocol, learning rate and seeds of every task."""
    head = [r for r in rows if _is_total(r) and r["status"] == "ok" and not r["task"].endswith(AVERAGE)]
    body: list[list[Cell]] = []
    for task in dict.fromkeys(r["task"] for r in head):
        every = {r["model"]: r for r in head if r["task"] == task}
        told = [f"{every[m]['reason']}; seeds {every[m]['seeds']}" if m in every else "–" for m in models]
        body.append([task, *told])
    return [tag("h2", "How they were made"), table(["task", *models], body, sortable=False)] if body else []


def _skipped(rows: Rows) -> list[str]:
    told: dict[tuple[str, str, str], list[str]] = {}
    for r in rows:
        if r["status"] == "skipped":
            told.setdefault((r["task"], r["language"], r["reason"]), []).append(r["model"])
    if not told:
        return []
    body: list[list[Cell]] = [[task, language, reason, ", ".join(who)] for (task, language, reason), who in told.items()]
    text = f"{number(len(body))} rows have no figure. They are part of no mean."
    return [tag("h2", "Skipped"), text, table(["task", "language", "why", "models"], body, find="find a task, a language")]


def side_by_side(rows: Rows, about: Mapping[str, Json], seconds: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """The page; `about` says what the models are, `seconds` what each spent by training or suite."""
    models = list(about)
    told = (
        f"Suites {', '.join(names)}: figures on test, per cent unless it is speed, with 95 % intervals over seeds and test "
        "examples (of means: over languages, each counting the same). ★ marks the best of a row."
    )
    parts = [told, *_averages(rows, models), *_means(rows, models), *_languages(rows, models), *_time(seconds)]
    parts += [*_protocols(rows, models), *_skipped(rows), *_models(about, seconds)]
    return page(f"Downstream tasks: {', '.join(models)}", parts)
