"""Extractive question answering: windows over the paragraph, a score of beginning and end per token, the best span of all.

Figures: rows of 384 tokens whose windows share 128 (nlu-evals, BERT's own), or the model's context with a third shared where
that is shorter; at most 30 tokens of an answer and 64 of a question (BERT's SQuAD script); 3 epochs at most. Decisions: the
span is the best one of all pairs begin ≤ end < begin + 30, not of twenty candidates each; a window that does not hold the
answer trains to point at its first token, whose score stands for "no answer" where a set has such questions (SQuAD 2). An
answer is cut out of the paragraph's text by the characters of its first and last piece, so nothing is decoded, and pieces of
one character (byte-level vocabularies) give the whole one.

Shapes: T tokens of a batch, B rows, L the longest row, N pieces of a paragraph, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmenc.downstream.answers_data import LAYOUTS, Layout, Question, Split
from mmenc.downstream.answers_score import Normalise, compare, mlqa, squad
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Floats, Item, Metric, Parts, Recipe, Task, ratio
from mmenc.downstream.text import Ints, Pieces, Row, Texts

ROW, SHARED, MOST_QUESTION, MOST_ANSWER = 384, 128, 64, 30
LOWEST = -1e9


@dataclass(frozen=True)
class Window:
    """The pieces of a paragraph that a row shows: where they begin in the row, and their characters."""

    offset: int
    start_N: Ints
    end_N: Ints


@dataclass(frozen=True)
class Span:
    """The best answer of a window: characters, its score, and that of there being none."""

    start: int
    end: int
    score: float
    none: float


def target_of(pieces: Pieces, start: int, end: int) -> tuple[int, int] | None:
    """First and last piece of the characters [start, end)."""
    real = np.flatnonzero(pieces.end_N > pieces.start_N)
    inside = real[(pieces.end_N[real] > start) & (pieces.start_N[real] < end)]
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def windows(length: int, room: int, shared: int) -> list[tuple[int, int]]:
    """Pieces [from, to) of each window; the last one ends with the paragraph."""
    found = [(0, min(length, room))]
    while found[-1][1] < length:
        begin = found[-1][0] + room - shared
        found.append((begin, min(length, begin + room)))
    return found


def rows_of(question: Pieces, paragraph: Pieces, texts: Texts, most: int) -> list[tuple[Row, int, int]]:
    """Rows of a question with each window of its paragraph, and the window's pieces."""
    most = min(most or texts.context, texts.context)
    room = most - sum(len(part) for part in texts.frame)
    asked_N = question.ids_N[: min(MOST_QUESTION, room // 2)]
    room -= len(asked_N)
    found = windows(len(paragraph.ids_N), room, min(SHARED, room // 3))
    return [(texts.row(asked_N, paragraph.ids_N[a:b], most), a, b) for a, b in found]


class Pointer(nn.Module):
    """Two scores of every token: that an answer begins there, that it ends there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 2)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return z_T2."""
        z_T2: Tensor = self.out(x_TD)
        return z_T2


def best_span(begin_N: Tensor, end_N: Tensor, most: int = MOST_ANSWER) -> tuple[int, int, float]:
    """The pair i ≤ j < i + most with the highest begin_N[i] + end_N[j]."""
    best = (0, 0, LOWEST)
    for apart in range(min(most, len(begin_N))):
        value, at = (begin_N[: len(begin_N) - apart] + end_N[apart:]).max(0)
        if float(value) > best[2]:
            best = (int(at), int(at) + apart, float(value))
    return best


@dataclass
class Answers:
    """The task of one data set."""

    name: str
    source: Layout | Split
    training: str = "squad"
    by_language: bool = False
    """MLQA's normalisation in place of SQuAD's."""
    unanswerable: bool = False
    before: Task | None = None
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3, most=ROW, modes=("zero-shot",)))
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"f1": ratio(), "exact_match": ratio()})

    def languages(self, data: Data) -> list[str]:
        """Those with test questions, and English, which trains."""
        found = self.source.tests(data)
        return sorted({*found, self.recipe.source} if "zero-shot" in self.recipe.modes else found)

    def read(self, data: Data, language: str) -> Parts:
        """Questions; each knows its language, by which it is normalised."""
        found = self.source.parts(data, language)
        return {p: [Asked(q, language) for q in questions] for p, questions in found.items()}

    def items(self, examples: Sequence[Any], texts: Texts, train: bool) -> list[Item]:
        """A row per window; a paragraph is tokenised once for all its questions."""
        paragraphs: dict[str, Pieces] = {}
        found: list[Item] = []
        for number, asked in enumerate(examples):
            q: Question = asked.question
            if q.context not in paragraphs:
                paragraphs[q.context] = texts.pieces(q.context)
            pieces = paragraphs[q.context]
            span = target_of(pieces, q.start, q.start + len(q.answers[0])) if q.answers and q.start >= 0 else None
            if train and q.answers and span is None:
                continue
            for row, a, b in rows_of(texts.pieces(q.text), pieces, texts, self.recipe.most):
                inside = span is not None and a <= span[0] and span[1] < b
                target = (span[0] - a + row.second, span[1] - a + row.second) if inside and span else (0, 0)
                found.append(Item([row], target, number, Window(row.second, pieces.start_N[a:b], pieces.end_N[a:b])))
        return found

    def head(self, width: int) -> nn.Module:
        """A linear layer."""
        return Pointer(width)

    def loss(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy over the tokens of a row, the mean of beginning and end."""
        z_BL2 = pad_sequence(list(head(x_TD).split(lengths.tolist())), batch_first=True, padding_value=LOWEST)
        target_B2 = torch.tensor([item.target for item in items], device=z_BL2.device)
        losses = [nn.functional.cross_entropy(z_BL2[..., side], target_B2[:, side]) for side in (0, 1)]
        return (losses[0] + losses[1]) / 2

    def predict(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Any]:
        """The best span of each window."""
        found: list[Span] = []
        for item, z_L2 in zip(items, head(x_TD).detach().float().cpu().split(lengths.tolist()), strict=True):
            window: Window = item.more
            none = float(z_L2[0].sum())
            z_N2 = z_L2[window.offset : window.offset + len(window.start_N)].clone()
            z_N2[torch.from_numpy(window.end_N <= window.start_N)] = LOWEST
            i, j, score = best_span(z_N2[:, 0], z_N2[:, 1])
            shown = (int(window.start_N[i]), int(window.end_N[j])) if score > LOWEST / 2 else (0, 0)
            found.append(Span(*shown, score, none))
        return found

    def said(self, examples: Sequence[Any], items: Sequence[Item], outputs: Sequence[Any]) -> list[str]:
        """The answer to each question: the best over its windows, or none where that scores higher in every window."""
        best: dict[int, Span] = {}
        none: dict[int, float] = {}
        for item, span in zip(items, outputs, strict=True):
            if item.example not in best or span.score > best[item.example].score:
                best[item.example] = span
            none[item.example] = min(span.none, none.get(item.example, span.none))
        texts = []
        for number, asked in enumerate(examples):
            span = best.get(number)
            silent = span is None or (self.unanswerable and none[number] > span.score)
            texts.append("" if silent or span is None else asked.question.context[span.start : span.end].strip())
        return texts

    def counts(self, examples: Sequence[Any], items: Sequence[Item], outputs: Sequence[Any]) -> dict[str, Floats]:
        """F1 and exact match of every question."""
        found = np.zeros((2, len(examples), 2))
        found[..., 1] = 1
        for number, (asked, said) in enumerate(zip(examples, self.said(examples, items, outputs), strict=True)):
            normalise: Normalise = mlqa(asked.language) if self.by_language else squad
            found[:, number, 0] = compare(said, asked.question.answers, normalise)
        return {"f1": found[0], "exact_match": found[1]}


@dataclass(frozen=True)
class Asked:
    """A question in a language."""

    question: Question
    language: str


def _task(name: str, **more: Any) -> Answers:
    return Answers(name, LAYOUTS[name], **more)


XQUAD, MLQA, TIQUAD, FOQA = _task("xquad"), _task("mlqa", by_language=True), _task("tiquad"), _task("foqa")
TYDIQA = _task("tydiqa", training="tydiqa")
SQUAD2 = _task("squad2", training="squad2", unanswerable=True)
XQUAD_SPLIT = Answers(
    "xquad-split",
    Split(LAYOUTS["xquad"]),
    training="xquad-split",
    recipe=Recipe(epochs=10, most=ROW, modes=("zero-shot",)),
)
