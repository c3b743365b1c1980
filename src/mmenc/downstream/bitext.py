"""Bitext mining in the layout of Tatoeba: how often a sentence's nearest neighbour in the other language is its translation.

Decisions: as LASER and XTREME define it: cosine of sentence vectors (`Subject.embed`: the mean over the last layer's tokens, or
what a sentence-transformers model says), nearest neighbour among all sentences of the other side. `accuracy` is the mean of
both directions (LASER), `accuracy_to_pivot` the one that XTREME prints; `accuracy_margin` divides each cosine by the mean of
those of the four nearest on both sides (Artetxe & Schwenk 2019, arXiv 1811.01136, LASER's own criterion for mining).
Nothing is trained, so the interval is over sentences. Both sides of a pair are embedded together and alone, so a pair's
figures depend on nothing but the pair. Chance is one in as many as there are sentences.

Shapes: N sentences of each side, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json, sha256_file
from mmenc.data.scripts import script_share
from mmenc.data.tags import resolve, scripts
from mmenc.downstream.course import limited
from mmenc.downstream.registry import Context
from mmenc.downstream.sources import Data
from mmenc.errors import Refused
from mmenc.evaluate.models import Subject
from mmenc.evaluate.rows import mean_interval, row, skipped
from mmenc.sections import Evaluate

TASK = "tatoeba"
NEAREST = 4
COMMON = ("Latn", "Cyrl", "Arab", "Hans")
"""Scripts that a language may be written in whatever the tables say; Chinese characters without more count as simplified."""
FILE = re.compile(r"^tatoeba\.([a-z]{3})-([a-z]{3})\.([a-z]{3})(?:\.gz|\.zst)?$")
Floats = NDArray[np.float32]

XTREME = (
    "afr", "ara", "ben", "bul", "cmn", "deu", "ell", "est", "eus", "fin", "fra", "heb", "hin", "hun", "ind", "ita", "jav", "jpn",
    "kat", "kaz", "kor", "mal", "mar", "nld", "pes", "por", "rus", "spa", "swh", "tam", "tel", "tgl", "tha", "tur", "urd", "vie",
)  # fmt: skip
"""The 36 languages of XTREME's Tatoeba task, under Tatoeba's codes."""


@dataclass(frozen=True)
class Pair:
    """A language and the pivot, line by line translations of each other."""

    code: str
    pivot: str
    sides: tuple[Path | None, Path | None]
    """Of the language, of the pivot; None where no such file is there."""

    @property
    def missing(self) -> str:
        """Why there is nothing to measure; empty if there is."""
        names = (f"tatoeba.{self.code}-{self.pivot}.{side}" for side in (self.code, self.pivot))
        lacking = [n for n, p in zip(names, self.sides, strict=True) if p is None]
        return f"no file {' and '.join(lacking)} in --data" if lacking else ""

    def read(self, data: Data) -> tuple[list[str], list[str]]:
        """The sentences of both sides."""
        texts = [list(data.lines(p)) for p in self.sides if p is not None]
        if len(texts) != 2 or len(texts[0]) != len(texts[1]) or len(texts[0]) < 2:
            counts = " and ".join(f"{len(t)} lines" for t in texts)
            raise Refused(f"{self.sides[0]}: {counts}; expected two files with the same number of lines, two or more")
        return texts[0], texts[1]


def find_pairs(root: Path, wanted: Iterable[str] = (), pivot: str = "eng") -> list[Pair]:
    """Pairs of a folder, and those wanted that are not there."""
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if (found := FILE.match(path.name)) and found[2] == pivot:
            files.setdefault(found[1], {})[found[3]] = path
    codes = sorted({*files, *wanted})
    return [Pair(c, pivot, (files.get(c, {}).get(c), files.get(c, {}).get(pivot))) for c in codes]


@dataclass(frozen=True)
class Found:
    """Whether each sentence found its translation: from the language to the pivot, and back."""

    there_N: NDArray[np.float64]
    back_N: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of both directions."""
        return (self.there_N + self.back_N) / 2


def hits(score_NN: Floats) -> Found:
    """Which sentence is the best of its row, and of its column."""
    own = np.arange(len(score_NN))
    return Found(*(np.asarray(score_NN.argmax(axis) == own, dtype=np.float64) for axis in (1, 0)))


def cosines(x_ND: Floats, y_ND: Floats) -> Floats:
    """Cosine of every sentence with every one of the other side."""
    u, v = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (x_ND, y_ND))
    return np.asarray(u @ v.T, dtype=np.float32)


def margins(cosine_NN: Floats, k: int = NEAREST) -> Floats:
    """Each cosine over the mean of its row's and its column's k highest."""
    k = min(k, len(cosine_NN))
    row_N1 = np.sort(cosine_NN, axis=1)[:, -k:].mean(1, keepdims=True)
    column_1N = np.sort(cosine_NN, axis=0)[-k:].mean(0, keepdims=True)
    return np.asarray(cosine_NN / ((row_N1 + column_1N) / 2), dtype=np.float32)


def pair_figures(subject: Subject, texts: tuple[Sequence[str], Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Per metric what each sentence scores."""
    n = len(texts[0])
    x_2ND = subject.embed([*texts[0], *texts[1]])
    cosine_NN = cosines(x_2ND[:n], x_2ND[n:])
    plain, margin = hits(cosine_NN), hits(margins(cosine_NN))
    return {
        "accuracy": plain.mean,
        "accuracy_to_pivot": plain.there_N,
        "accuracy_from_pivot": plain.back_N,
        "accuracy_margin": margin.mean,
    }


def pair_rows(
    subject: Subject, texts: tuple[Sequence[str], Sequence[str]], code: str, tag: str, settings: Evaluate
) -> list[Json]:
    """Rows of one pair of languages; their tier is left open."""
    rows = []
    for metric, value_N in pair_figures(subject, texts).items():
        figures = mean_interval(value_N.tolist(), settings.bootstrap, settings.seed, TASK, code)
        rows.append(row(subject.name, subject.digest, TASK, tag, "", metric, figures, len(value_N)))
    return rows


def tag_of(code: str, texts: Sequence[str]) -> str:
    """The tag of Tatoeba's code: its script is that of the sentences, the language what ISO 639 and CLDR make of the code."""
    sample = " ".join(texts[:200])
    usual = scripts(code)
    script = max([*usual, *(s for s in COMMON if s not in usual)], key=lambda s: round(script_share(sample, f"{code}_{s}"), 2))
    try:
        return resolve(f"{code}_{script}").name
    except Refused:
        return f"{code}_{script}"


def _pair(context: Context, pair: Pair) -> list[Json]:
    """Rows of one pair, taken from an earlier run where there was one; none where the language is not asked for."""
    settings, limit, subject, asked = context.settings, context.options.limit, context.subject, context.options.languages
    texts = ([], []) if pair.missing else pair.read(context.data)
    tag = tag_of(pair.code, texts[0])
    if asked and tag not in asked:
        return []
    if pair.missing:
        return [skipped(subject.name, subject.digest, TASK, tag, context.tier(tag), pair.missing)]
    names = {
        "model": subject.digest, "suite": TASK, "code": pair.code, "limit": limit,
        "data": [sha256_file(p) for p in pair.sides if p is not None], "bootstrap": settings.bootstrap, "seed": settings.seed,
    }  # fmt: skip
    known = context.units.get(names)
    if known is None:
        chosen = limited(range(len(texts[0])), limit, TASK, pair.code)
        some = [texts[0][i] for i in chosen], [texts[1][i] for i in chosen]
        known = {"rows": pair_rows(subject, some, pair.code, tag, settings)}, {}
        context.units.put(names, *known)
    return [{**r, "model": subject.name, "tier": context.tier(tag)} for r in known[0]["rows"]]


def _average(context: Context, found: Mapping[str, float]) -> Json:
    """The mean that XTREME prints: to English, over its 36 languages, only where all of them are there."""
    subject, settings, label = context.subject, context.settings, f"{TASK}/average"
    if len(found) < len(XTREME):
        told = f"XTREME: {len(found)} of its {len(XTREME)} languages have figures"
        return skipped(subject.name, subject.digest, label, "", "all", told)
    figures = mean_interval([found[c] for c in sorted(found)], settings.bootstrap, settings.seed, label)
    return row(subject.name, subject.digest, label, "", "all", "XTREME", figures, len(found))


def measure(context: Context) -> list[Json]:
    """Rows of all pairs of `tatoeba/`, and skipped ones of those of XTREME's 36 languages that are not there."""
    roots = context.data.folders("tatoeba")
    pairs = [p for root in roots for p in find_pairs(root, XTREME)]
    if not pairs:
        name, digest = context.subject.name, context.subject.digest
        return [skipped(name, digest, TASK, "", "all", "no folder tatoeba with tatoeba.LANGUAGE-eng.LANGUAGE in --data")]
    rows, printed = list[Json](), dict[str, float]()
    for pair in pairs:
        mine = _pair(context, pair)
        rows += mine
        if pair.code in XTREME:
            printed.update((pair.code, r["mean"]) for r in mine if r["metric"] == "accuracy_to_pivot")
        context.tick(1 / len(pairs), f"{TASK} {pair.code}")
    absent = [t for t in context.options.languages if t not in {r["language"] for r in rows}]
    rows += [skipped(context.subject.name, context.subject.digest, TASK, t, context.tier(t), "not in --data") for t in absent]
    return [_average(context, printed), *rows]
