"""All suites for all models: rows, facts of the runs, and a table for the person who waits.

Decision: what is missing is a skipped row that says what was looked for, and part of no mean; a suite's average over tasks is
made only where every task has a figure. One model is held at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmenc.artifact import Json
from mmenc.downstream.backbone import Backbone, of_subject
from mmenc.downstream.course import Course, Skip, courses_of, shared
from mmenc.downstream.options import Options
from mmenc.downstream.registry import DOING, SUITES, TIMED, Context, find
from mmenc.downstream.results import averages, language_row, points, totals
from mmenc.downstream.runner import CHOOSERS, Outcome, Runner
from mmenc.downstream.side import text
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Missing, Suite
from mmenc.downstream.units import Units
from mmenc.errors import Refused, nearest
from mmenc.evaluate.models import Subject
from mmenc.evaluate.rows import skipped
from mmenc.evaluate.texts import tier
from mmenc.progress import bar, console
from mmenc.raw import named_input
from mmenc.recipe import Recipe
from mmenc.sections import Evaluate
from mmenc.store import is_remote

INTRINSIC = "intrinsic"


@dataclass(frozen=True)
class Plan:
    """What all models are measured on."""

    names: Sequence[str]
    data: Data
    options: Options
    settings: Evaluate
    tiers: Sequence[str]
    tier: Callable[[str], str]


def tuned_suites(names: Sequence[str], where: str) -> list[str]:
    """Those that are no intrinsic figures, each once; an unknown name is refused."""
    known = (INTRINSIC, *SUITES)
    for name in names:
        if name not in known:
            raise Refused(f"{where}: no suite is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    if timed := [n for n in names if n in TIMED and where.startswith("evaluate.")]:
        raise Refused(f"{where}: {timed[0]} measures time, which no artifact holds; `mmenc evaluate --suite {timed[0]}` does it")
    return [n for n in dict.fromkeys(names) if n != INTRINSIC]


def make_plan(names: Sequence[str], data: Path | str | None, recipe: Recipe, options: Options, cache: Path) -> Plan:
    """Find the labelled data, in a folder or a bucket; languages have the tier of the recipe's set that names them."""
    if not data:
        asked = ", ".join(names)
        raise Refused(f"{asked}: needs labelled data; --data (evaluate.task_data) names its folder, see docs/downstream.md")
    if is_remote(data):
        root, _ = named_input("--data", str(data), cache, recipe.compute.store_patience)
    else:
        root = Path(data)
    if not root.is_dir():
        raise Refused(f"{data}: no such folder; expected one with a folder per data set, such as {data}/sib200")
    tiers = [*recipe.languages, "unseen"]
    return Plan(names, Data(root, options.hub), options, recipe.evaluate, tiers, partial(tier, recipe))


@dataclass
class Found:
    """What came out of one model."""

    rows: list[Json] = field(default_factory=list)
    """Averages first, then means over languages, then languages."""
    runs: list[Json] = field(default_factory=list)
    by_seed: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    """Figures of languages that share runs, by task, language, metric."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per training and mode, runs that were finished before included; per suite that trains nothing, of this call."""


def _groups(suites: Sequence[Suite], plan: Plan) -> tuple[list[list[Course]], list[Skip]]:
    """Courses that share a learning rate, and what is skipped; a task of two suites is trained once."""
    tasks = {task.name: task for suite in suites for task in suite.tasks}
    every, skips = list[Course](), list[Skip]()
    for task in tasks.values():
        courses, more = courses_of(task, plan.data, plan.options)
        every, skips = every + courses, skips + more
    groups: dict[tuple[str, str], list[Course]] = {}
    for course in shared(every):
        groups.setdefault((course.task.training, course.mode), []).append(course)
    return list(groups.values()), skips


def _amount(groups: Sequence[Sequence[Course]], options: Options) -> float:
    """Runs to be made, for the progress bar."""
    rates = len(options.rates) if len(options.rates) > 1 else 0
    return sum(rates * min(CHOOSERS, len(g)) + options.seeds * len(g) for g in groups)


def score(subject: Subject, bf16: bool, plan: Plan, units: Units, keep: Path | None = None) -> Found:
    """Measure one model on everything; models made on the way go into `keep`."""
    kinds = {name: find(name) for name in plan.names}
    suites = {name: k for name, k in kinds.items() if isinstance(k, Suite)}
    found, model = Found(), (subject.name, subject.digest)
    backbone, memo = of_subject(subject, bf16), dict[str, Any]()
    rows = _fine_tuned(backbone, list(suites.values()), plan, units, found) if suites else []
    for name, kind in kinds.items():
        if not isinstance(kind, Suite):
            began = time.monotonic()
            with bar(f"{DOING[name]} {subject.name}", 1.0, "suite") as shown:
                context = Context(
                    subject, backbone, plan.data, units, plan.options, plan.settings, plan.tier, shown.advance, keep, memo
                )
                rows += [_remarked(r, plan.options) for r in kind(context)]
            found.seconds[name] = time.monotonic() - began
    over = totals(rows, plan.tiers, plan.settings.bootstrap, found.by_seed)
    means = [r for s in suites.values() for r in averages(over, s, model)]
    found.rows = means + over + rows
    return found


def _fine_tuned(backbone: Backbone, suites: Sequence[Suite], plan: Plan, units: Units, found: Found) -> list[Json]:
    """Rows of all languages of the suites that tune."""
    model, rows = (backbone.name, backbone.digest), list[Json]()
    groups, skips = _groups(suites, plan)
    firsts = {task.before.training for suite in suites for task in suite.tasks if task.before}
    with bar(f"fine-tune {backbone.name}", max(1.0, _amount(groups, plan.options)), "runs") as shown:
        runner = Runner(backbone, units, plan.options, plan.data, shown.advance, firsts)
        for group in groups:
            try:
                outcome = runner.run(group)
            except Missing as why:
                skips += [Skip(t.label, t.language, str(why)) for c in group for t in c.tests]
                continue
            rows += _rows(group, outcome, model, plan, found)
            found.seconds[f"{group[0].task.training}, {group[0].mode}"] = outcome.seconds
    found.runs = runner.facts
    return rows + [skipped(*model, s.label, s.language, plan.tier(s.language) if s.language else "all", s.reason) for s in skips]


def _remarked(r: Json, options: Options) -> Json:
    """A row of a suite that trains nothing, with its protocol."""
    told = "; ".join(x for x in (f"protocol {options.protocol}", r["reason"]) if x)
    return r | {"reason": told} if r["status"] == "ok" else r


def _rows(group: Sequence[Course], outcome: Outcome, model: tuple[str, str], plan: Plan, into: Found) -> list[Json]:
    """A row per test, language and metric, with the protocol and the learning rate as its remark."""
    found, times = list[Json](), plan.settings.bootstrap
    for t in (t for course in group for t in course.tests):
        told = f"protocol {plan.options.protocol}; learning rate {outcome.rate:g}"
        told += f"; {outcome.diverged[t.key]} seeds diverged" if outcome.diverged[t.key] else ""
        for name, metric in t.task.metrics.items():
            counts = outcome.counts[t.key][name]
            if group[0].mode == "zero-shot":
                into.by_seed[t.label, t.language, name] = points(counts, metric)
            found.append(
                language_row(model, t.label, t.language, plan.tier(t.language), (name, metric), counts, times) | {"reason": told}
            )
    return found


def show(rows: Sequence[Json], seconds: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    """A table of means with intervals, one column per model, and the seconds per training."""
    from rich.table import Table

    models = list(dict.fromkeys(r["model"] for r in rows))
    title = f"{', '.join(names)}: means over languages on test, each the same, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for head in ("task", "metric", "languages"):
        table.add_column(head)
    for model in models:
        table.add_column(model, justify="right")
    cells = {(r["task"], r["metric"], r["model"]): r for r in rows if r["tier"] == "all" and not r["language"]}
    measured = {task for task, _, _ in cells}
    for r in rows:
        if r["status"] == "skipped" and r["language"] and r["task"] not in measured:
            cells.setdefault((r["task"], "", r["model"]), r)
    for task, metric in dict.fromkeys((t, m) for t, m, _ in cells):
        every = [cells.get((task, metric, model)) for model in models]
        count = next((str(r["n"]) for r in every if r), "")
        table.add_row(task, metric or "skipped", count if metric else "", *(text(r) for r in every))
    console().print(table)
    for model, spent in seconds.items():
        print(f"  {model}: " + ", ".join(f"{k} {v:.0f} s" for k, v in spent.items()), flush=True)


def units_folder(out: Path) -> Path:
    """Where finished runs of an unfinished evaluation are kept: beside its folder."""
    return out.with_name(f".{out.name}.units")
