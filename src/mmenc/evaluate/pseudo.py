"""Pseudo-perplexity (Salazar et al. 2020, arXiv 1910.14659) of test sentences: each token is masked in turn.

On request only (`evaluate.pseudo_perplexity` sentences per language), because a sentence of n tokens costs n rows: up to twenty
sentences of the default recipe's 459 languages are 26 M tokens, where all the rest of the evaluation reads 0.9 M.
Perplexity is per token and so compares only models with one tokenizer; `pseudo_bits_per_byte` compares all.
Decisions: sentences are cut by terminal punctuation of any script and by line ends, and those of 20 to 400 bytes are drawn,
keyed by their documents and so the same for every model; figures over languages are geometric means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from mmenc import rng
from mmenc.artifact import Json
from mmenc.evaluate.rows import ratio_interval, row, skipped
from mmenc.evaluate.score import Piece, Scores
from mmenc.sections import Evaluate

END = regex.compile(r"(?<=\p{Sentence_Terminal}[\p{Pe}\p{Pf}\p{Pi}\"']*)\s+|(?<=[。！？])|\n+")
BYTES = (20, 400)
Words = Callable[[str], tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Ids of a text without special tokens, and the bytes that each stands for."""


def sentences(text: str) -> list[str]:
    """Sentences of a text that are neither headings nor lists."""
    found = (s.strip() for s in END.split(text) if s)
    return [s for s in found if BYTES[0] <= len(s.encode()) <= BYTES[1]]


def draw(texts: Mapping[str, Iterable[str]], count: int, seed: int) -> dict[str, list[str]]:
    """At most `count` different sentences of each language, drawn at random."""
    chosen: dict[str, list[str]] = {}
    for language, documents in texts.items():
        every = list(dict.fromkeys(s for text in documents for s in sentences(text)))
        chosen[language] = [every[i] for i in rng.permutation(len(every), seed, "sentences", language)[:count]]
    return chosen


def rows_of(
    ids_N: NDArray[np.int64], size_N: NDArray[np.float64], number: int, outer: tuple[Sequence[int], Sequence[int]], mask_id: int
) -> list[Piece]:
    """One row per token of a sentence, that token masked."""
    before, behind = (np.array(ids, dtype=np.int64) for ids in outer)
    found: list[Piece] = []
    for i in range(len(ids_N)):
        row_T = np.concatenate([before, ids_N, behind])
        row_T[len(before) + i] = mask_id
        found.append(Piece(number, row_T, np.array([len(before) + i]), ids_N[i : i + 1], size_N[i : i + 1]))
    return found


def pseudo_rows(
    model: str,
    digest: str,
    chosen: Mapping[str, Sequence[str]],
    tiers: Mapping[str, str],
    settings: Evaluate,
    encode: Callable[[str, int], list[Piece]],
    score: Callable[[list[Piece]], Scores],
) -> list[Json]:
    """Rows per language; `encode` makes the rows of a sentence, `score` scores rows."""
    found: list[Json] = []
    for language, texts in chosen.items():
        pieces = [p for i, text in enumerate(texts) for p in encode(text, i)]
        if not pieces:
            found.append(skipped(model, digest, "pseudo", language, tiers[language], "no test sentence of 20 to 400 bytes"))
            continue
        scores = score(sorted(pieces, key=lambda p: len(p.input_T)))
        count, loss, size = (
            np.bincount(scores.document_M, weights, len(texts)).astype(np.float64)
            for weights in (None, scores.loss_M, scores.size_M)
        )
        used = count > 0
        key = (settings.bootstrap, settings.seed, "sentences", language)
        perplexity = ratio_interval(loss[used], count[used], *key)
        bits = ratio_interval(loss[used] / math.log(2), np.maximum(size[used], 1), *key)
        mean, low, high = (math.exp(x) for x in perplexity)
        n = int(count.sum())
        found.append(row(model, digest, "pseudo", language, tiers[language], "perplexity", (mean, low, high), n))
        found.append(row(model, digest, "pseudo", language, tiers[language], "bits_per_byte", bits, n))
    return found
