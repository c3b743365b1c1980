"""Rows of `scores.json` (contract) and their intervals: percentile bootstrap, keyed by names, so that it is repeatable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.artifact import Json

LEVEL = 0.95


def ratio_interval(
    above: NDArray[np.float64], below: NDArray[np.float64], times: int, *names: object
) -> tuple[float, float, float]:
    """Σ above / Σ below and its interval, resampling the entries (documents or languages) with replacement."""
    n = len(above)
    mean = float(above.sum() / below.sum())
    if n < 2:
        return mean, mean, mean
    picks = (rng.raw(times * n, *names) % np.uint64(n)).astype(np.int64).reshape(times, n)
    resampled = above[picks].sum(1) / np.maximum(below[picks].sum(1), 1e-12)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean, float(low), float(high)


def mean_interval(values: Sequence[float], times: int, *names: object) -> tuple[float, float, float]:
    """Mean and its interval over entries of equal weight."""
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(array, np.ones(len(array)), times, *names)


def row(
    model: str,
    digest: str,
    task: str,
    language: str,
    tier: str,
    metric: str,
    figures: tuple[float, float, float],
    n: int,
    *,
    status: str = "ok",
    reason: str = "",
) -> Json:
    """One row; figures are (mean, low, high)."""
    mean, low, high = (round(x, 6) for x in figures)
    return {
        "model": model,
        "digest": digest,
        "task": task,
        "split": "test",
        "language": language,
        "tier": tier,
        "metric": metric,
        "mean": mean,
        "low": low,
        "high": high,
        "n": n,
        "seeds": 1,
        "status": status,
        "reason": reason,
    }


def skipped(model: str, digest: str, task: str, language: str, tier: str, reason: str) -> Json:
    """A row that says why there is no figure; it is part of no mean."""
    return {
        **row(model, digest, task, language, tier, "", (0.0, 0.0, 0.0), 0, status="skipped", reason=reason),
        "mean": "",
        "low": "",
        "high": "",
    }


def aggregate(rows: list[Json], tiers: Sequence[str], times: int) -> list[Json]:
    """Means over languages, per tier and over all (tier `all`): every language counts the same; language is empty."""
    kinds: dict[tuple[str, str, str, str], list[Json]] = {}
    for r in rows:
        if r["status"] == "ok" and r["language"]:
            kinds.setdefault((r["model"], r["digest"], r["task"], r["metric"]), []).append(r)
    found: list[Json] = []
    for (model, digest, task, metric), members in kinds.items():
        for tier in [*tiers, "all"]:
            values = [r["mean"] for r in members if tier in (r["tier"], "all")]
            if values:
                figures = mean_interval(values, times, "tier", task, metric, tier)
                found.append(row(model, digest, task, "", tier, metric, figures, len(values)))
    return found
