"""Token classification: one label per word, read off the word's first piece; long sentences become several rows, no word is lost.

Decision: a word that has no piece at all (a tokenizer dropped its only character) gets no prediction: wrong for parts of
speech, no entity for names. It stays in the figures. Labels outside of the task's set count as wrong and train nothing.

Shapes: T tokens of a batch, W labelled words of it, D width, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc.downstream import entities
from mmenc.downstream.task import Floats, Item, LabelTask, Metric, f1, ratio
from mmenc.downstream.text import Texts

NONE = -1
ACCURACY, ENTITY_F1 = {"accuracy": ratio()}, {"f1": f1()}


@dataclass(frozen=True)
class Sentence:
    """Words and their labels."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Tagging(LabelTask):
    """Examples are `Sentence`s; `f1` counts entities of BIO labels, `accuracy` words."""

    metrics: Mapping[str, Metric] = field(default_factory=lambda: ENTITY_F1)

    def items(self, examples: Sequence[Sentence], texts: Texts, train: bool) -> list[Item]:
        """The rows of a sentence; `target` are the labels of its words, `more` their tokens."""
        number = {label: i for i, label in enumerate(self.labels)}
        found: list[Item] = []
        for i, sentence in enumerate(examples):
            done = 0
            for row, position_W in texts.split(sentence.words, self.recipe.most):
                labels = sentence.labels[done : done + len(position_W)]
                target_W = np.array([number.get(label, NONE) for label in labels], dtype=np.int64)
                done += len(position_W)
                if not train or ((target_W >= 0) & (position_W >= 0)).any():
                    found.append(Item([row], target_W, i, position_W))
        return found

    def head(self, width: int) -> nn.Module:
        """One linear layer."""
        return nn.Linear(width, len(self.labels))

    def _words(self, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> tuple[Tensor, list[Any]]:
        """x_WD of the words that have a piece, and where they stand in each item."""
        start_B = (torch.cumsum(lengths, 0) - lengths).tolist()
        places = [np.flatnonzero(item.more >= 0) for item in items]
        index_W = np.concatenate([s + item.more[at] for s, item, at in zip(start_B, items, places, strict=True)])
        return x_TD.index_select(0, torch.from_numpy(index_W).to(x_TD.device)), places

    def loss(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy, each word of the batch the same."""
        x_WD, places = self._words(x_TD, lengths, items)
        target_W = np.concatenate([item.target[at] for item, at in zip(items, places, strict=True)])
        return F.cross_entropy(head(x_WD), torch.from_numpy(target_W).to(x_TD.device), ignore_index=NONE)

    def predict(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Any]:
        """The likeliest label of every word of each row."""
        x_WD, places = self._words(x_TD, lengths, items)
        best = head(x_WD).argmax(1).cpu().numpy() if len(x_WD) else np.empty(0, dtype=np.int64)
        found, done = list[Any](), 0
        for item, at in zip(items, places, strict=True):
            guess_W = np.full(len(item.more), NONE, dtype=np.int64)
            guess_W[at] = best[done : done + len(at)]
            done += len(at)
            found.append(guess_W)
        return found

    def counts(self, examples: Sequence[Sentence], items: Sequence[Item], outputs: Sequence[Any]) -> dict[str, Floats]:
        """Per sentence; rows of one are put together again."""
        guesses: list[list[str]] = [[] for _ in examples]
        for item, guess_W in zip(items, outputs, strict=True):
            guesses[item.example] += [self.labels[g] if g >= 0 else self._none for g in guess_W]
        golds = [e.labels for e in examples]
        found: dict[str, Floats] = {}
        if "accuracy" in self.metrics:
            rows = [(sum(a == b for a, b in zip(g, e, strict=True)), len(e)) for g, e in zip(guesses, golds, strict=True)]
            found["accuracy"] = np.array(rows, dtype=np.float64).reshape(-1, 2)
        if "f1" in self.metrics:
            found["f1"] = entities.table(guesses, golds)
        return found

    @property
    def _none(self) -> str:
        return "O" if "O" in self.labels else ""
