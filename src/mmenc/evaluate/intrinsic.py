"""Masked-LM loss, accuracy, bits per byte and calibration of every language on test, beside unigram models of the training text.

Bits per byte = Σ −log2 p(token) over the test tokens masked at 15 % with a fixed seed ÷ the UTF-8 bytes of those tokens
(contract), so that models with different tokenizers compare. `unigram` knows the frequency of each token in the whole
training text; `unigram-language` those of the language itself, smoothed with the former (Dirichlet, 1,000 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json
from mmenc.data.tokens import Split
from mmenc.evaluate import calibration
from mmenc.evaluate.rows import ratio_interval, row
from mmenc.evaluate.score import Scores
from mmenc.sections import Evaluate

SMOOTHING = 1000.0
"""Pseudo-counts with which the whole text's frequencies enter a language's own."""


def language_rows(
    model: str,
    digest: str,
    scores: Scores,
    ranges: Mapping[str, tuple[int, int]],
    tiers: Mapping[str, str],
    settings: Evaluate,
) -> tuple[list[Json], dict[str, NDArray[np.float64]]]:
    """Rows per language, and what calibration sums per language; resamples documents."""
    found: list[Json] = []
    gaps: dict[str, NDArray[np.float64]] = {}
    correct_M = scores.correct
    for language, (first, last) in ranges.items():
        inside = (scores.document_M >= first) & (scores.document_M < last)
        if not inside.any():
            continue
        document_M = scores.document_M[inside] - first
        count = np.bincount(document_M, minlength=last - first).astype(np.float64)
        used = count > 0
        loss, correct, size = (
            np.bincount(document_M, x[inside], last - first)[used].astype(np.float64)
            for x in (scores.loss_M, correct_M, scores.size_M)
        )
        count = count[used]
        key = (settings.seed, "bootstrap", language)
        figures = {
            "loss": ratio_interval(loss, count, settings.bootstrap, *key),
            "accuracy": ratio_interval(correct, count, settings.bootstrap, *key),
            "bits_per_byte": ratio_interval(loss / math.log(2), np.maximum(size, 1), settings.bootstrap, *key),
        }
        if len(scores.top_M):
            parts = calibration.sums(scores.top_M[inside], correct_M[inside], document_M, last - first)[:, used]
            figures[calibration.METRIC] = calibration.language_error(parts, settings.bootstrap, *key)
            gaps[language] = parts.sum(1)
        else:
            del figures["accuracy"]
        found += [
            row(model, digest, "mlm", language, tiers[language], metric, figure, int(count.sum()))
            for metric, figure in figures.items()
        ]
    return found, gaps


def unigram_scores(scores: Scores, train: Split, test: Split, vocab: int) -> dict[str, Scores]:
    """The same masked tokens, scored by the two unigram models."""
    counts = np.bincount(train.flat, minlength=vocab).astype(np.float64) + 1
    p_V = counts / counts.sum()
    whole_M = -np.log(p_V[scores.target_M])
    own_M = np.empty_like(whole_M)
    for language, (first, last) in test.ranges.items():
        inside = (scores.document_M >= first) & (scores.document_M < last)
        if inside.any():
            local = np.bincount(train.folder_tokens(language), minlength=vocab) + SMOOTHING * p_V
            own_M[inside] = -np.log(local[scores.target_M[inside]] / local.sum())
    none = np.full(len(whole_M), -1, dtype=np.int64)
    return {
        name: Scores(scores.document_M, scores.target_M, loss_M, none, size_M=scores.size_M)
        for name, loss_M in (("unigram", whole_M), ("unigram-language", own_M))
    }
