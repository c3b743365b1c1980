"""Sequence classification and regression: the mean over a row's tokens and one linear layer.

Decision: the same head for every model (mean pooling is what mmBERT's config says; no pretrained pooler, which only some
have), so that models differ by their encoders alone. Rows are cut at the protocol's length, of two texts the longer one first.

Shapes: T tokens of a batch, B rows, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc.downstream import metrics as counting
from mmenc.downstream.task import Floats, Item, LabelTask, Metric
from mmenc.downstream.text import Texts


@dataclass(frozen=True)
class Labelled:
    """A text (or two) and its label: a class's name, or a number."""

    text: str
    pair: str | None
    label: str | float


def mean_rows(x_TD: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the tokens of each row: x_BD."""
    row_T = torch.repeat_interleave(torch.arange(len(lengths), device=x_TD.device), lengths)
    return x_TD.new_zeros(len(lengths), x_TD.shape[1]).index_add(0, row_T, x_TD) / lengths[:, None]


@dataclass(frozen=True)
class Classification(LabelTask):
    """Examples are `Labelled`; without `labels` it is a regression."""

    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": counting.ACCURACY})

    def items(self, examples: Sequence[Labelled], texts: Texts, train: bool) -> list[Item]:
        """One row per example."""
        del train
        number = {label: i for i, label in enumerate(self.labels)}
        return [
            Item([texts.text(e.text, e.pair, self.recipe.most)], number[str(e.label)] if number else float(e.label), i)
            for i, e in enumerate(examples)
        ]

    def head(self, width: int) -> nn.Module:
        """One linear layer."""
        return nn.Linear(width, max(1, len(self.labels)))

    def _scores(self, head: nn.Module, x_TD: Tensor, lengths: Tensor) -> Tensor:
        found: Tensor = head(mean_rows(x_TD, lengths))
        return found

    def loss(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy, or squared error."""
        z_BC = self._scores(head, x_TD, lengths)
        target_B = torch.tensor([i.target for i in items], device=x_TD.device)
        return F.cross_entropy(z_BC, target_B) if self.labels else F.mse_loss(z_BC[:, 0], target_B.float())

    def predict(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Any]:
        """The number of the likeliest class, or the value."""
        del items
        z_BC = self._scores(head, x_TD, lengths)
        found: list[Any] = (z_BC.argmax(1) if self.labels else z_BC[:, 0]).tolist()
        return found

    def counts(self, examples: Sequence[Labelled], items: Sequence[Item], outputs: Sequence[Any]) -> dict[str, Floats]:
        """By the metric's name."""
        del examples
        gold = np.array([i.target for i in items])
        guess = np.array(outputs)
        return {name: self._counts(name, guess, gold) for name in self.metrics}

    def _counts(self, name: str, guess: Any, gold: Any) -> Floats:
        if name == "pearson":
            return counting.moments(guess, gold)
        if name == "spearman":
            return counting.moments(counting.ranks(guess), counting.ranks(gold))
        if name == "f1":
            return counting.positives(guess, gold)
        if name == "matthews":
            return counting.table(guess, gold)
        if name == "macro_f1":
            return counting.confusion(guess, gold, len(self.labels))
        return counting.hits(guess, gold)
