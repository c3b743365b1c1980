"""Rows of `scores.json` from counts: means over seeds with intervals over seeds and test examples, then over languages and tasks.

Decision: an interval has two parts. Each of `evaluate.bootstrap` resamples draws test examples with replacement, the same for
all seeds, and then seeds with replacement; what examples and what seeds move is widened by Student's factor of its own
number (rows.widening: 2.69 for 3 seeds, 1.00 for 1,000 examples); a bootstrap of three seeds alone would be far too narrow.
Over languages each counts the same, and the interval is that over languages; where several languages are tested with the same
runs (zero-shot), a lucky seed moves them all, which resampling languages cannot see, so Student's half-width of the seeds' own
means is added as squares, as half-widths over tasks are.

Shapes: S seeds, N examples, K counts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mmenc import rng
from mmenc.artifact import Json
from mmenc.downstream.task import Average, Floats, Metric, Suite
from mmenc.evaluate.rows import LEVEL, NORMAL, aggregate, row, skipped, widening


def estimate(counts_SNK: Sequence[Floats], metric: Metric, times: int, *names: object) -> tuple[float, float, float]:
    """Mean over seeds and its interval (module docstring)."""
    seeds, n = len(counts_SNK), len(counts_SNK[0])
    mean = float(np.mean(points(counts_SNK, metric)))
    if n < 2:
        return mean, mean, mean
    picks_RN = (rng.raw(times * n, *names, "examples") % np.uint64(n)).astype(np.int64).reshape(times, n)
    flat = (picks_RN + n * np.arange(times)[:, None]).ravel()
    weight_RN = np.bincount(flat, minlength=times * n).reshape(times, n).astype(np.float64)
    value_RS = np.stack([metric.figure(weight_RN @ c) for c in counts_SNK], axis=1)
    drawn_RS = (rng.raw(times * seeds, *names, "seeds") % np.uint64(seeds)).astype(np.int64).reshape(times, seeds)
    middle_R = value_RS.mean(1)
    moved_R = np.take_along_axis(value_RS, drawn_RS, 1).mean(1) - middle_R
    by_seed = widening(seeds) if seeds > 1 else 0.0
    spread_R = widening(n) * (middle_R - mean) + by_seed * moved_R
    low, high = mean + np.quantile(spread_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shown = value_RS.min() >= 0  # a share: never below 0 nor above 1
    return mean, max(0.0, float(low)) if shown else max(-1.0, float(low)), min(1.0, float(high))


def language_row(
    model: tuple[str, str], task: str, language: str, tier: str, metric: tuple[str, Metric], counts: Sequence[Floats], times: int
) -> Json:
    """One figure of one language."""
    figures = estimate(counts, metric[1], times, "downstream", task, language)
    return row(*model, task, language, tier, metric[0], figures, len(counts[0])) | {"seeds": len(counts)}


BySeed = Mapping[tuple[str, str, str], Sequence[float]]
"""A row's figure for each seed, by task, language and metric."""


def points(counts_SNK: Sequence[Floats], metric: Metric) -> list[float]:
    """The figure of each seed."""
    return [float(metric.figure(c.sum(0, keepdims=True))[0]) for c in counts_SNK]


def half_width(means_S: Sequence[float]) -> float:
    """Student's, of a mean over seeds; 0 of one."""
    n = len(means_S)
    return widening(n) * NORMAL * float(np.std(means_S)) / math.sqrt(n) if n > 1 else 0.0


def _widened(total: Json, every: Sequence[Json], by_seed: BySeed) -> tuple[float, float]:
    """The interval of a mean over languages with that of the seeds."""
    found = [by_seed.get((r["task"], r["language"], r["metric"]), ()) for r in every]
    if len({len(p) for p in found}) != 1 or not found[0]:
        return total["low"], total["high"]
    by = half_width(np.mean(found, axis=0).tolist())
    low, high = (math.hypot(total["mean"] - total[side], by) for side in ("low", "high"))
    ends = total["mean"] - low, total["mean"] + high
    least = 0.0 if min(r["low"] for r in every) >= 0 else -1.0
    return round(max(least, ends[0]), 6), round(min(1.0, ends[1]), 6)


def totals(rows: Sequence[Json], tiers: Sequence[str], times: int, by_seed: BySeed = MappingProxyType({})) -> list[Json]:
    """Means over languages per tier and over all; of one language alone its own interval, `seeds` is the least among them.

    `by_seed` holds the figures of languages that were tested with the same runs.
    """
    members: dict[tuple[str, str, str, str], list[Json]] = {}
    for r in rows:
        if r["status"] == "ok":
            for name in (r["tier"], "all"):
                members.setdefault((r["model"], r["task"], r["metric"], name), []).append(r)
    found = list[Json]()
    for total in aggregate(rows, tiers, times, {}):
        every = members[total["model"], total["task"], total["metric"], total["tier"]]
        low, high = (every[0]["low"], every[0]["high"]) if total["n"] == 1 else _widened(total, every, by_seed)
        told = min((r["reason"] for r in every), key=len)  # without what one language alone has to say
        least = min(r["seeds"] for r in every)
        found.append(total | {"low": low, "high": high, "seeds": least, "reason": told})
    return found


def averages(rows: Iterable[Json], suite: Suite, model: tuple[str, str]) -> list[Json]:
    """The suite's averages over tasks of one model, or the row that says which tasks they lack."""
    means = {(r["task"], r["metric"]): r for r in rows if r["model"] == model[0] and r["tier"] == "all" and not r["language"]}
    return [_average(means, suite.name, name, groups, model) for name, groups in suite.averages.items()]


def _average(means: Mapping[tuple[str, str], Json], suite: str, name: str, groups: Average, model: tuple[str, str]) -> Json:
    label = f"{suite}/average"
    members = [m for group in groups for m in group]
    if lacking := sorted({task for task, metric in members if (task, metric) not in means}):
        told = f"{name}: no figures of {', '.join(lacking)}"
        return skipped(*model, label, "", "all", told)
    parts = [(means[m], 1 / (len(groups) * len(group))) for group in groups for m in group]
    mean = sum(w * r["mean"] for r, w in parts)
    low, high = (math.sqrt(sum((w * (r["mean"] - r[side])) ** 2 for r, w in parts)) for side in ("low", "high"))
    seeds = min(r["seeds"] for r, _ in parts)
    protocol, over = str(parts[0][0]["reason"]).split(";")[0], ", ".join(f"{r['task']} {r['n']}" for r, _ in parts)
    told = f"{protocol}; languages: {over}"
    return row(*model, label, "", "all", name, (mean, mean - low, mean + high), len(members), reason=told) | {"seeds": seeds}
