"""Counts of the metrics of classification and regression, per example; their figures equal scikit-learn's and scipy's (tested).

Shapes: N examples, K counts, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmenc.downstream.task import Floats, Metric, f1, ratio

Ints = NDArray[np.int64]
ACCURACY = ratio()
F1 = f1()


def hits(guess_N: Ints, gold_N: Ints) -> Floats:
    """For accuracy."""
    return np.stack([guess_N == gold_N, np.ones(len(gold_N))], axis=1).astype(np.float64)


def positives(guess_N: Ints, gold_N: Ints, positive: int = 1) -> Floats:
    """For F1 of one class: right, guessed, gold."""
    guess, gold = guess_N == positive, gold_N == positive
    return np.stack([guess & gold, guess, gold], axis=1).astype(np.float64)


def table(guess_N: Ints, gold_N: Ints) -> Floats:
    """For Matthews' correlation of two classes: true and false positives, true and false negatives."""
    guess, gold = guess_N == 1, gold_N == 1
    return np.stack([guess & gold, guess & ~gold, ~guess & ~gold, ~guess & gold], axis=1).astype(np.float64)


def _matthews(s_RK: Floats) -> Floats:
    tp, fp, tn, fn = s_RK.T
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.asarray(np.where(below > 0, (tp * tn - fp * fn) / np.where(below > 0, below, 1), 0.0))


MATTHEWS = Metric(_matthews)


def confusion(guess_N: Ints, gold_N: Ints, classes: int) -> Floats:
    """For macro F1: per class right, guessed, gold."""
    return np.concatenate([positives(guess_N, gold_N, c) for c in range(classes)], axis=1)


def _macro(s_RK: Floats) -> Floats:
    right, guessed, gold = s_RK.reshape(len(s_RK), -1, 3).transpose(2, 0, 1)
    seen = guessed + gold > 0
    score = 2 * right / np.where(seen, guessed + gold, 1)
    return np.asarray((score * seen).sum(1) / np.maximum(seen.sum(1), 1))


MACRO_F1 = Metric(_macro)


def moments(x_N: Sequence[float] | Floats, y_N: Sequence[float] | Floats) -> Floats:
    """For Pearson's correlation; of ranks it is Spearman's (a resample keeps the ranks of the whole)."""
    x, y = np.asarray(x_N, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()  # the same figure, without the loss of digits
    return np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)


def _pearson(s_RK: Floats) -> Floats:
    x, y, xx, yy, xy, n = s_RK.T
    below = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.asarray(np.where(below > 0, (n * xy - x * y) / np.where(below > 0, below, 1), 0.0))


PEARSON = Metric(_pearson)


def ranks(x_N: Sequence[float] | Floats) -> Floats:
    """1 … N; equal values share the mean of theirs."""
    _, place, count = np.unique(np.asarray(x_N), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)
