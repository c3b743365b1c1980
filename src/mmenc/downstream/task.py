"""What a task must say of itself, so that one harness tunes, resumes, counts and compares all of them.

Decision: a metric is a function of sums over test examples (right answers; true and false positives; x, y, xy of a correlation).
A finished run therefore keeps one small matrix of counts per language, and every mean and interval is computed from those: all
seeds see the same resampled examples, and nothing needs to be run again to be compared.

Shapes: N examples, K counts of one, R resamples, T tokens of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mmenc.downstream.sources import Data
from mmenc.downstream.text import Row, Texts

Floats = NDArray[np.float64]
PARTS = ("train", "dev", "test")
Parts = Mapping[str, list[Any]]
"""Examples of a language under train, dev, test; a part may be empty. An example is a dataclass or a tuple with a stable repr."""
Reader = Callable[[Data, str], Parts]
Lister = Callable[[Data], list[str]]
Average = Sequence[Sequence[tuple[str, str]]]
"""The mean over groups of the mean over the group's (task, metric), each the mean over languages."""


class Missing(Exception):
    """Data that is not there, in words: becomes a skipped row, never a zero."""


@dataclass(frozen=True)
class Metric:
    """`figure` gets the sums of an example's counts, (R, K), and returns (R,)."""

    figure: Callable[[Floats], Floats]


def ratio(above: int = 0, below: int = 1) -> Metric:
    """Sum of one count over that of another: accuracy."""
    return Metric(lambda s_RK: s_RK[:, above] / np.maximum(s_RK[:, below], 1e-12))


def f1(right: int = 0, guessed: int = 1, gold: int = 2) -> Metric:
    """2 · right / (guessed + gold); 0 where there is neither."""
    return Metric(lambda s_RK: 2 * s_RK[:, right] / np.maximum(s_RK[:, guessed] + s_RK[:, gold], 1e-12))


@dataclass(frozen=True)
class Recipe:
    """How a task is trained; the defaults are mmBERT's (recipe notes, fine-tuning: batch 32, warm-up 0.06)."""

    epochs: int = 10
    """At most: mmBERT sweeps {1, 2, 3, 5, 10}; here the best epoch on dev is kept, so one run of 10 holds all of them."""
    patience: int = 2
    """Epochs without a better dev figure after which a run ends; ours."""
    most: int = 128
    """Tokens of a row (nlu-evals: 128 for GLUE, WikiANN, UDPOS; 384 for SQuAD)."""
    modes: tuple[str, ...] = ("language", "zero-shot")
    source: str = "eng_Latn"
    """Language that zero-shot transfer starts from."""


MMBERT = Recipe()


@dataclass
class Item:
    """What is trained or predicted at once: the rows of one example (of a choice: one per answer), or of one window of it."""

    rows: list[Row]
    target: Any = None
    example: int = 0
    """Number of the example that it belongs to."""
    more: Any = None


class Task(Protocol):
    """One task. Examples may be anything; the harness hands them back to `items` and `counts` only."""

    name: str
    training: str
    """What is trained; tasks of the same `training` (XQuAD and MLQA: SQuAD) share runs, heads and losses."""
    before: Task | None
    """A task that the encoder is tuned on first, with the same seed (SIQA before COPA, MNLI before RTE)."""
    metrics: Mapping[str, Metric]
    """The first one is what dev chooses by, and what enters averages."""
    recipe: Recipe

    def languages(self, data: Data) -> list[str]:
        """Tags that the data has; raises Missing where there is none at all."""

    def read(self, data: Data, language: str) -> Parts:
        """Examples of a language."""

    def items(self, examples: Sequence[Any], texts: Texts, train: bool) -> list[Item]:
        """Rows and targets; for training, items without a target are left out."""

    def head(self, width: int) -> nn.Module:
        """What is put on the encoder; its weights are drawn by the harness."""

    def loss(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> Tensor:
        """Mean loss of a batch."""

    def predict(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Any]:
        """One output per item."""

    def counts(self, examples: Sequence[Any], items: Sequence[Item], outputs: Sequence[Any]) -> dict[str, Floats]:
        """Per metric the counts (N, K) of all examples."""


@dataclass(frozen=True)
class LabelTask(Task):
    """A task of labels; two functions give its languages and examples, and its own name is that of its training unless told."""

    name: str
    labels: tuple[str, ...]
    languages_of: Lister
    reader: Reader
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    recipe: Recipe = MMBERT
    training: str = ""
    before: Task | None = None

    def __post_init__(self) -> None:
        if not self.training:
            object.__setattr__(self, "training", self.name)

    def languages(self, data: Data) -> list[str]:
        """Tags that the data has."""
        return self.languages_of(data)

    def read(self, data: Data, language: str) -> Parts:
        """Examples of a language."""
        return self.reader(data, language)


@dataclass(frozen=True)
class Suite:
    """Some tasks under one name, and the averages over them."""

    name: str
    tasks: Sequence[Task]
    averages: Mapping[str, Average] = field(default_factory=dict)
    """Only made where every member has a figure."""
