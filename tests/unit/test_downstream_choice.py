"""Multiple choice: published layouts, the chain SIQA, COPA, XCOPA, and what a missing stage does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmenc.data.tokenizer import train_bpe
from mmenc.downstream.choice import ENGLISH, SIQA, XCOPA, XCOPA_DIRECT, Choice
from mmenc.downstream.course import courses_of
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Missing
from mmenc.downstream.text import Texts
from mmenc.errors import Refused
from mmenc.evaluate.words import OurWords

# Tiny files in the published formats, written for this test.
COPA = [
    {"premise": "The glass fell.", "choice1": "It broke.", "choice2": "It sang.", "question": "effect", "label": 0, "idx": 0},
    {"premise": "She was wet.", "choice1": "It was dry.", "choice2": "It rained.", "question": "cause", "label": 1, "idx": 1},
]
GERMAN = [
    {"premise": "Das Glas fiel.", "choice1": "Es sang.", "choice2": "Es zerbrach.", "question": "effect", "label": 1, "idx": 0}
]
TALE = {"context": "Kim baked.", "question": "Why?", "answerA": "to eat", "answerB": "to sleep", "answerC": "to swim"}


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Data:
    lines(tmp_path / "copa" / "train.jsonl", COPA)
    lines(tmp_path / "copa" / "val.jsonl", COPA[:1])
    lines(tmp_path / "xcopa" / "data" / "et" / "test.et.jsonl", GERMAN)
    lines(tmp_path / "xcopa" / "data" / "zh" / "test.zh.jsonl", GERMAN)
    lines(tmp_path / "xcopa" / "data-gmt" / "tr" / "test.tr.jsonl", GERMAN)
    return Data(tmp_path)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(OurWords(train_bpe([json.dumps(COPA)] * 3, 300, 2, True)), 128)


@pytest.mark.parametrize("kind", ["labels file", "correct", "label"])
def test_siqa_in_its_published_layouts(tmp_path: Path, kind: str):
    folder = tmp_path / "siqa" / "socialiqa-train-dev"
    if kind == "labels file":
        for part in ("train", "dev"):
            lines(folder / f"{part}.jsonl", [TALE, TALE])
            (folder / f"{part}-labels.lst").write_text("3\n1\n")
    else:
        more = [{"correct": "C"}, {"correct": "A"}] if kind == "correct" else [{"label": "3"}, {"label": "1"}]
        names = ("socialIQa_v1.4_trn", "socialIQa_v1.4_dev") if kind == "correct" else ("train", "dev")
        for name in names:
            lines(folder / f"{name}.jsonl", [TALE | m for m in more])
    parts = SIQA.read(Data(tmp_path), ENGLISH)
    assert parts["train"] == parts["dev"] == [Choice("Kim baked. Why?", ("to eat", "to sleep", "to swim"), i) for i in (2, 0)]


def test_the_chain_and_its_data(data: Data):
    assert XCOPA.before is SIQA
    assert XCOPA_DIRECT.before is None
    assert XCOPA.training != XCOPA_DIRECT.training
    assert XCOPA.languages(data) == ["cmn_Hans", "ekk_Latn", "eng_Latn"]  # data-gmt is translated back into English
    course = courses_of(XCOPA, data, Options())[0][0]
    assert (course.mode, course.language, len(course.train), len(course.dev)) == ("zero-shot", ENGLISH, 2, 1)
    assert {t.label for t in course.tests} == {"xcopa/zero-shot"}
    assert course.train[1] == Choice("She was wet. What was the cause of this?", ("It was dry.", "It rained."), 1)


def test_without_siqa_the_reason_names_it(data: Data):
    with pytest.raises(Missing, match="no file siqa/"):
        SIQA.languages(data)
    with pytest.raises(Missing, match="xcopa: no file"):
        XCOPA.languages(Data(data.root / "copa"))


def test_the_score_of_an_answer_is_that_of_its_row_and_gold_is_100(data: Data, texts: Texts):
    examples = XCOPA.read(data, ENGLISH)["train"]
    items = XCOPA.items(examples, texts, train=True)
    assert [len(i.rows) for i in items] == [2, 2]
    assert all(i.rows[0].second > 0 for i in items)
    rows = [r for i in items for r in i.rows]
    lengths = torch.tensor([len(r.ids_T) for r in rows])
    right = [float(a == i.target) for i in items for a in (0, 1)]
    x_TD = torch.cat([torch.full((int(n), 1), 40 * r) for n, r in zip(lengths, right, strict=True)])
    head = XCOPA.head(1)
    with torch.no_grad():
        head.out.weight.fill_(1.0)
        head.out.bias.zero_()
        assert float(XCOPA.loss(head, x_TD, lengths, items)) < 1e-6
        assert float(XCOPA.loss(head, -x_TD, lengths, items)) == pytest.approx(40)
        outputs = XCOPA.predict(head, x_TD, lengths, items)
    counts = XCOPA.counts(examples, items, outputs)["accuracy"]
    assert counts.tolist() == [[1, 1], [1, 1]]
    assert XCOPA.counts(examples, items, [1 - o for o in outputs])["accuracy"][:, 0].sum() == 0


def test_broken_lines_are_sentences(tmp_path: Path):
    lines(tmp_path / "copa" / "train.jsonl", [{"premise": "x"}])
    with pytest.raises(Refused, match="expected premise, question"):
        XCOPA.read(Data(tmp_path), ENGLISH)
    lines(tmp_path / "siqa" / "train.jsonl", [TALE])
    with pytest.raises(Refused, match="and the right one in every line"):
        SIQA.read(Data(tmp_path), ENGLISH)
