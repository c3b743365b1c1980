"""Multiple choice: one row per answer, one score per row, softmax over the answers; SIQA, then COPA, then XCOPA's test.

Decisions: the chain is mmBERT's (nlu-evals: 5 epochs of SIQA, 5 of COPA's 400 examples). A row is the text with the question,
and one answer; the score is a linear layer on the mean of the row's tokens. All three sets pose it alike, so the head goes
along with the encoder from stage to stage. The questions are English in all languages, as in XCOPA's own code. Without
SIQA there is no such chain and XCOPA is a skipped row; COPA alone stands apart under the name `xcopa-direct`. Dev is
COPA's validation file; SIQA's own dev chooses its stage.

Shapes: T tokens, R rows (answers) of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmenc.artifact import Json
from mmenc.downstream.classify import mean_rows
from mmenc.downstream.sources import Data
from mmenc.downstream.tables import jsonl, tag_of
from mmenc.downstream.task import Floats, Item, Metric, Missing, Parts, Recipe, Task, ratio
from mmenc.downstream.text import Texts
from mmenc.errors import Refused

ENGLISH = "eng_Latn"
ASKED = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
ROW, EPOCHS = 128, 5
LETTERS = "ABC"


@dataclass(frozen=True)
class Choice:
    """A text with a question, its answers, and the number of the right one."""

    text: str
    answers: tuple[str, ...]
    right: int


class Scorer(nn.Module):
    """One score from the mean of a row's tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)

    def forward(self, x_TD: Tensor, lengths: Tensor) -> Tensor:
        """Return z_R."""
        z_R1: Tensor = self.out(mean_rows(x_TD, lengths))
        return z_R1[:, 0]


def copa(data: Data, path: Path | None) -> list[Choice]:
    """COPA and XCOPA: premise, question (cause or effect), choice1, choice2, label 0 or 1."""
    try:
        return [
            Choice(f"{r['premise']} {ASKED[r['question']]}", (r["choice1"], r["choice2"]), int(r["label"]))
            for r in jsonl(data, path, ())
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise Refused(f"{path}: expected premise, question, choice1, choice2, label in every line ({error!r})") from None


def _right(row: Json, labels: Sequence[str], number: int) -> int:
    """SIQA's answer: a letter under `correct`, or 1 to 3 under `label` or in a file of labels."""
    if "correct" in row:
        return LETTERS.index(row["correct"])
    return int(row["label"] if "label" in row else labels[number]) - 1


def siqa(data: Data, path: Path | None, labels: Path | None = None) -> list[Choice]:
    """SIQA: context, question, answerA, answerB, answerC."""
    known = [line.strip() for line in data.lines(labels)] if labels else []
    try:
        return [
            Choice(f"{r['context']} {r['question']}", tuple(r[f"answer{x}"] for x in LETTERS), _right(r, known, i))
            for i, r in enumerate(jsonl(data, path, ()))
        ]
    except (KeyError, ValueError, IndexError) as error:
        raise Refused(
            f"{path}: expected context, question, answerA, answerB, answerC and the right one in every line ({error!r})"
        ) from None


def _first(data: Data, folders: Sequence[Path], names: Sequence[str], ending: str = ".jsonl") -> Path | None:
    """The first such file in a folder or anywhere below it."""
    for root in folders:
        for folder in [root, *sorted(p for p in root.rglob("*") if p.is_dir())]:
            if found := next((p for n in names if (p := data.find(folder / n, ending))), None):
                return found
    return None


class Choosing:
    """What the three tasks share: rows, head, loss, metric."""

    name = ""
    training = ""
    before: Task | None = None
    keeps_head = True
    """The head goes on from the task before."""
    metrics: Mapping[str, Metric] = {"accuracy": ratio()}
    recipe = Recipe(epochs=EPOCHS, most=ROW, modes=("zero-shot",))

    def items(self, examples: Sequence[Any], texts: Texts, train: bool) -> list[Item]:
        """One row per answer."""
        del train
        most = self.recipe.most
        return [Item([texts.text(e.text, a, most) for a in e.answers], e.right, number) for number, e in enumerate(examples)]

    def head(self, width: int) -> nn.Module:
        """A linear layer on the mean."""
        return Scorer(width)

    def scores(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Tensor]:
        """Scores of each item's answers."""
        found: list[Tensor] = list(head(x_TD, lengths).split([len(item.rows) for item in items]))
        return found

    def loss(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy over the answers."""
        scores = self.scores(head, x_TD, lengths, items)
        losses = [-z.log_softmax(0)[item.target] for z, item in zip(scores, items, strict=True)]
        return torch.stack(losses).mean()

    def predict(self, head: nn.Module, x_TD: Tensor, lengths: Tensor, items: Sequence[Item]) -> list[Any]:
        """The number of the best answer."""
        return [int(z.argmax()) for z in self.scores(head, x_TD, lengths, items)]

    def counts(self, examples: Sequence[Any], items: Sequence[Item], outputs: Sequence[Any]) -> dict[str, Floats]:
        """Right answers."""
        right = np.zeros(len(examples))
        for item, said in zip(items, outputs, strict=True):
            right[item.example] = said == item.target
        return {"accuracy": np.column_stack([right, np.ones(len(right))])}


class Siqa(Choosing):
    """Social IQa, the stage before COPA; its test labels are not published, and it enters no table."""

    name = training = "siqa"

    def languages(self, data: Data) -> list[str]:
        """English."""
        if not self.read(data, ENGLISH)["train"]:
            raise Missing("no file siqa/…/socialIQa_v1.4_trn.jsonl or train.jsonl in --data")
        return [ENGLISH]

    def read(self, data: Data, language: str) -> Parts:
        """Train and dev."""
        del language
        folders = data.folders("siqa", "social_i_qa", "socialiqa", "socialiqa-train-dev")
        found: dict[str, list[Any]] = {"test": []}
        for part, short in (("train", "trn"), ("dev", "dev")):
            path = _first(data, folders, (f"socialIQa_v1.4_{short}", part))
            labels = data.find(path.parent / f"{part}-labels", ".lst") if path else None
            found[part] = list(siqa(data, path, labels))
        return found


@dataclass
class Xcopa(Choosing):
    """COPA's training and validation examples, XCOPA's test in its eleven languages and COPA's own in English."""

    name: str = "xcopa"
    training: str = "copa"
    before: Task | None = field(default_factory=Siqa)

    def _tests(self, data: Data) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(p for root in data.folders("xcopa", "XCOPA") for p in root.rglob("test.*.jsonl*")):
            if "gmt" not in path.parent.parent.name:  # their machine translations back into English
                found.setdefault(tag_of(path.name.split(".")[1]), path)
        return found

    def languages(self, data: Data) -> list[str]:
        """Those of XCOPA's test files, and English, which trains."""
        if not (found := self._tests(data)):
            raise Missing("xcopa: no file test.LANGUAGE.jsonl in --data")
        return sorted({*found, ENGLISH})

    def read(self, data: Data, language: str) -> Parts:
        """Test of a language; English has train and dev."""
        tests = self._tests(data)
        parts: dict[str, list[Any]] = {"train": [], "dev": [], "test": list(copa(data, tests.get(language)))}
        if language == ENGLISH:
            folders = data.folders("copa", "COPA")
            parts["train"] = list(copa(data, _first(data, folders, ("train", "train.en"))))
            parts["dev"] = list(copa(data, _first(data, folders, ("val", "validation", "dev", "val.en"))))
        return parts


SIQA = Siqa()
XCOPA = Xcopa(before=SIQA)
XCOPA_DIRECT = Xcopa("xcopa-direct", "copa-direct", None)
