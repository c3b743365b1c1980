"""Expected calibration error: how far the probability of the likeliest token is from how often it is right.

Decisions: 15 bins of equal width over that probability (Guo et al. 2017, arXiv 1706.04599): Σ_b share_b · |confidence_b −
accuracy_b|. With 200 masked tokens of a language the figure is mostly noise and too high (about 0.04 for a perfectly
calibrated model), so means over languages are not means of it: the gaps of the languages are averaged bin by bin first,
each language counting the same, then summed. Resampling adds the same kind of noise; an interval always holds its figure.

Shapes: M masked tokens, U units (documents of a language, or languages), B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.artifact import Json
from mmenc.evaluate.rows import LEVEL, Pooled

BINS = 15
METRIC = "calibration_error"


def bin_of(top_M: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability; a bin holds its upper end."""
    return np.clip(np.ceil(top_M * BINS).astype(np.int64) - 1, 0, BINS - 1)


def sums(top_M: NDArray[np.float64], correct_M: NDArray[np.bool_], unit_M: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    """Per unit and bin: Σ confidence, Σ correct, tokens: (3, U, B)."""
    at_M = unit_M * BINS + bin_of(top_M)
    parts = [np.bincount(at_M, weights, units * BINS) for weights in (top_M, correct_M.astype(np.float64), None)]
    return np.stack(parts).astype(np.float64).reshape(3, units, BINS)


def error_interval(
    gap_UB: NDArray[np.float64], weight_U: NDArray[np.float64], times: int, *names: object
) -> tuple[float, float, float]:
    """Σ_b |Σ_u gap| / Σ_u weight and its interval over units."""
    n = len(gap_UB)
    mean = float(np.abs(gap_UB.sum(0)).sum() / weight_U.sum())
    if n < 2:
        return mean, mean, mean
    picks = (rng.raw(times * n, *names) % np.uint64(n)).astype(np.int64).reshape(times, n)
    count = np.zeros((times, n))
    np.add.at(count, (np.arange(times)[:, None], picks), 1)
    resampled = np.abs(count @ gap_UB).sum(1) / np.maximum(count @ weight_U, 1e-12)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean, min(mean, float(low)), max(mean, float(high))


def language_error(sums_3UB: NDArray[np.float64], times: int, *names: object) -> tuple[float, float, float]:
    """Calibration error of one language; its documents are resampled."""
    return error_interval(sums_3UB[0] - sums_3UB[1], sums_3UB[2].sum(1), times, *names)


def mean_error(
    gaps: Mapping[str, NDArray[np.float64]], tags: Sequence[str], times: int, *names: object
) -> tuple[float, float, float]:
    """Calibration error over languages that count the same; languages are resampled. `gaps` are (3, B) per language."""
    shares = np.stack([gaps[t] / gaps[t][2].sum() for t in tags])
    return error_interval(shares[:, 0] - shares[:, 1], np.ones(len(tags)), times, *names)


def pooled(model: str, gaps: Mapping[str, NDArray[np.float64]], times: int) -> Pooled:
    """How `rows.aggregate` finds a model's calibration error over several languages."""
    return {f"{model}.{METRIC}": lambda tags, key: mean_error(gaps, tags, times, "tier", METRIC, key)}


def diagram(gaps: Mapping[str, NDArray[np.float64]]) -> list[Json]:
    """The reliability diagram over all languages: bins that hold anything, with mean confidence, accuracy and share."""
    share_3B = np.mean([g / g[2].sum() for g in gaps.values()], axis=0)
    return [
        {"confidence": round(float(c / n), 6), "accuracy": round(float(a / n), 6), "share": round(float(n), 6)}
        for c, a, n in share_3B.T
        if n > 0
    ]
