"""Extractive questions: windows, offsets and spans over real tokenizers, and figures as the official scripts define them."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmenc.data.tokenizer import train_bpe
from mmenc.downstream.answers import FOQA, MLQA, SHARED, TIQUAD, XQUAD, XQUAD_SPLIT, Span, best_span, target_of, windows
from mmenc.downstream.answers_data import LAYOUTS, questions, share
from mmenc.downstream.answers_score import compare, mlqa, squad
from mmenc.downstream.course import courses_of
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Missing
from mmenc.downstream.text import Texts
from mmenc.errors import Refused
from mmenc.evaluate.words import OurWords
from tests.pipeline import REPO

SHARED_DATA = REPO.parent / "shared/data/eval"
XQUAD_FILES = pytest.mark.skipif(not (SHARED_DATA / "xquad").is_dir(), reason="needs ../shared/data/eval/xquad")

# A tiny file in the published layout, written for this test.
CONTEXTS = {
    "en": "The Øresund bridge, opened in 2000, is 7,845 metres long. It joins Denmark and Sweden.",
    "ar": "يقع جسر أوريسند بين الدنمارك والسويد، وقد افتتح في عام 2000.",
    "zh": "厄勒海峽大橋於2000年通車，連接丹麥和瑞典。",
    "hi": "ओरेसुंड पुल 2000 में खुला और डेनमार्क को स्वीडन से जोड़ता है।",
}
ANSWERS = {"en": ["7,845 metres", "Øresund"], "ar": ["2000", "الدنمارك"], "zh": ["2000年", "丹麥"], "hi": ["2000", "डेनमार्क"]}


def squad_file(language: str, shift: int = 0, empty: bool = False) -> dict:
    context = CONTEXTS[language]
    qas = [
        {"id": f"{language}-{i}", "question": f"{i}?", "answers": [{"text": a, "answer_start": context.index(a) + shift}]}
        for i, a in enumerate(ANSWERS[language])
    ]
    if empty:
        qas.append({"id": "none", "question": "Why?", "answers": [], "is_impossible": True})
    return {"version": "1.1", "data": [{"title": "Bridge", "paragraphs": [{"context": context, "qas": qas}]}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("qa")
    (root / "xquad").mkdir()
    for language in CONTEXTS:
        (root / "xquad" / f"xquad.{language}.json").write_text(json.dumps(squad_file(language)), encoding="utf-8")
    return Data(root)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix space", "no prefix space"])
def texts(request) -> Texts:
    """A byte-level tokenizer too small for the scripts, so that characters fall into several pieces."""
    words = OurWords(train_bpe([*CONTEXTS.values()] * 4, 264, 2, request.param))
    return Texts(words, 64)


def gold(items, examples) -> list[Span]:
    """What a perfect model would say: the target's span where a window holds it."""
    found = []
    for item in items:
        window, (a, b) = item.more, item.target
        held = (a, b) != (0, 0)
        start, end = (int(window.start_N[a - window.offset]), int(window.end_N[b - window.offset])) if held else (0, 0)
        found.append(Span(start, end, 9.0 if held else -9.0, -9.0 if held else 9.0))
    return found


def figures(task, examples, items, outputs) -> dict[str, float]:
    counts = task.counts(examples, items, outputs)
    return {name: float(m.figure(counts[name].sum(0, keepdims=True))[0]) for name, m in task.metrics.items()}


@pytest.mark.parametrize("language", ["eng_Latn", "arb_Arab", "cmn_Hans", "hin_Deva"])
@pytest.mark.parametrize("task", [XQUAD, MLQA], ids=lambda t: t.name)
def test_gold_spans_score_100_in_every_script_over_several_windows(data: Data, texts: Texts, language: str, task):
    examples = XQUAD.read(data, language)["test"]
    items = task.items(examples, texts, train=False)
    assert len(items) > len(examples)
    assert {i.example for i in items} == {0, 1}
    assert all(len(i.rows) == 1 and len(i.rows[0].ids_T) <= 64 for i in items)
    assert figures(task, examples, items, gold(items, examples)) == {"f1": 1.0, "exact_match": 1.0}
    for item in items:  # the row's pieces are those whose characters the window names
        piece = item.rows[0].ids_T[item.more.offset : item.more.offset + len(item.more.start_N)]
        assert len(piece) == len(item.more.start_N)


def test_the_target_is_the_answer_not_the_space_before_it(texts: Texts):
    context = CONTEXTS["en"]
    pieces = texts.pieces(context)
    for answer in ("Øresund", "2000", "The", "Sweden.", "7,845"):
        start = context.index(answer)
        span = target_of(pieces, start, start + len(answer))
        assert span is not None
        cut = context[pieces.start_N[span[0]] : pieces.end_N[span[1]]]
        assert answer in cut
        assert cut.strip() == cut


def test_windows_cover_everything_and_share_what_they_should():
    assert windows(10, 20, 5) == [(0, 10)]
    assert windows(50, 20, 5) == [(0, 20), (15, 35), (30, 50)]
    assert windows(0, 20, 5) == [(0, 0)]
    for length in (300, 301, 1000):
        found = windows(length, 300, SHARED)
        assert found[0][0] == 0
        assert found[-1][1] == length
        assert all(a[1] - b[0] == SHARED for a, b in itertools.pairwise(found))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=40), st.integers(1, 12))
def test_the_best_span_is_the_best_of_all_pairs(scores, most):
    begin, end = (torch.tensor([s[i] for s in scores], dtype=torch.float64) for i in (0, 1))
    i, j, score = best_span(begin, end, most)
    every = [float(begin[a] + end[b]) for a in range(len(scores)) for b in range(a, min(len(scores), a + most))]
    assert i <= j < i + most
    assert score == pytest.approx(max(every))
    assert score == pytest.approx(float(begin[i] + end[j]))


def test_training_leaves_out_what_points_nowhere_and_shifts_what_points_beside(tmp_path: Path, texts: Texts):
    (tmp_path / "xquad").mkdir()
    content = squad_file("en", shift=3)
    content["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["text"] = "Storebælt"
    (tmp_path / "xquad" / "xquad.en.json").write_text(json.dumps(content))
    found = questions(Data(tmp_path), tmp_path / "xquad" / "xquad.en.json")
    assert [q.start for q in found] == [CONTEXTS["en"].index("7,845"), -1]
    examples = XQUAD.read(Data(tmp_path), "eng_Latn")["test"]
    assert {i.example for i in XQUAD.items(examples, texts, train=True)} == {0}
    assert {i.example for i in XQUAD.items(examples, texts, train=False)} == {0, 1}


def test_a_question_without_an_answer_is_right_when_nothing_is_said(tmp_path: Path, texts: Texts):
    from mmenc.downstream.answers import SQUAD2

    (tmp_path / "squad2").mkdir()
    (tmp_path / "squad2" / "dev-v2.0.json").write_text(json.dumps(squad_file("en", empty=True)))
    examples = SQUAD2.read(Data(tmp_path), "eng_Latn")["test"]
    items = SQUAD2.items(examples, texts, train=True)
    assert {i.example for i in items} == {0, 1, 2}
    assert all(i.target == (0, 0) for i in items if i.example == 2)
    outputs = gold(items, examples)
    assert SQUAD2.said(examples, items, outputs) == ["7,845 metres", "Øresund", ""]
    assert figures(SQUAD2, examples, items, outputs)["f1"] == 1.0
    loud = [Span(4, 11, 10.0, 0.0) for _ in items]
    assert figures(SQUAD2, examples, items, loud)["exact_match"] == 1 / 3


def official(said: str, right: str) -> tuple[float, bool]:
    """F1 and exact match, written down from the definition in the paper of SQuAD."""

    def norm(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    a, b = norm(said), norm(right)
    same = sum((Counter(a) & Counter(b)).values())
    if same == 0:
        return float(a == b == []), a == b
    precision, recall = same / len(a), same / len(b)
    return 2 * precision * recall / (precision + recall), a == b


@given(st.lists(st.sampled_from(["The", "a", "cat's", "cat", "sat.", "An", "9–10", "Ångström", ""]), max_size=6),
       st.lists(st.sampled_from(["the", "cats", "cat", "sat", "9–10", "ångström"]), max_size=4))  # fmt: skip
def test_figures_are_those_of_the_definition(said, right):
    f1, exact = compare(" ".join(said), [" ".join(right)], squad)
    expected = official(" ".join(said), " ".join(right))
    assert f1 == pytest.approx(expected[0])
    assert bool(exact) == expected[1]


def test_known_values():
    assert compare("the Cat sat", ["a cat, sat!"], squad) == (1.0, 1.0)
    assert compare("cat sat down", ["cat"], squad) == (0.5, 0.0)
    assert compare("dog", ["cat", "a dog"], squad) == (1.0, 1.0)
    assert compare("", [], squad) == (1.0, 1.0)
    assert compare("cat", [], squad) == (0.0, 0.0)
    assert mlqa("deu_Latn")("Der Bär, „groß“") == "bär groß"
    assert squad("Der Bär, „groß“") == "der bär „groß“"
    assert mlqa("cmn_Hans")("2000年，丹麥") == "2000 年 丹 麥"
    assert mlqa("arb_Arab")("الدنمارك،") == "دنمارك"
    assert mlqa("spa_Latn")("El puente") == "puente"
    assert mlqa("hin_Deva")("पुल।") == "पुल"


def test_dev_is_cut_out_of_train_by_article_and_never_out_of_squads_dev(tmp_path: Path):
    (tmp_path / "squad").mkdir()
    (tmp_path / "xquad").mkdir()
    article = squad_file("en")["data"][0]
    content = {"data": [{**article, "title": f"title {i}"} for i in range(60)]}
    (tmp_path / "squad" / "train-v1.1.json").write_text(json.dumps(content))
    (tmp_path / "squad" / "dev-v1.1.json").write_text(json.dumps({"data": [{**article, "title": "never read"}]}))
    (tmp_path / "xquad" / "xquad.en.json").write_text(json.dumps(squad_file("en")))
    data = Data(tmp_path)
    parts = XQUAD.read(data, "eng_Latn")
    titles = {p: {a.question.title for a in parts[p]} for p in ("train", "dev")}
    assert len(titles["train"]) + len(titles["dev"]) == 60
    assert titles["dev"] == {t for t in titles["dev"] if share(t) < 0.05}
    assert titles["dev"]
    assert not titles["train"] & titles["dev"]
    assert "squad/dev-v1.1.json" not in data.files
    course = courses_of(XQUAD, data, Options())[0][0]
    assert course.mode == "zero-shot"
    assert course.language == "eng_Latn"
    assert course.tests[0].label == "xquad/zero-shot"


def test_tydiqa_in_both_published_layouts(tmp_path: Path):
    folder = tmp_path / "tydiqa"
    folder.mkdir()
    content = squad_file("en")
    mixed = json.loads(json.dumps(content).replace("en-", "english-"))
    mixed["data"] += json.loads(json.dumps(squad_file("ar")).replace("ar-", "arabic-"))["data"]
    (folder / "tydiqa-goldp-v1.1-train.json").write_text(json.dumps(mixed))
    (folder / "tydiqa-goldp-dev-swahili.json").write_text(json.dumps(content))
    (folder / "tydiqa.fi.dev.json").write_text(json.dumps(content))
    layout = LAYOUTS["tydiqa"]
    assert sorted(layout.tests(Data(tmp_path))) == ["fin_Latn", "swh_Latn"]
    train, dev = layout.training(Data(tmp_path))
    assert [q.id for q in train + dev] == ["english-0", "english-1"]


@pytest.mark.parametrize(
    ("names", "tested"),
    [
        (["tiquad.json"], ["tiquad.json"]),
        (["train-v1.json", "whatever.v2.json", "dev-v1.json"], ["whatever.v2.json"]),
        (["train.json", "dev.json"], ["dev.json"]),
        (["deep/TEST_a.json", "deep/test_b.json", "x.json", "validation.json"], ["TEST_a.json", "test_b.json"]),
    ],
)
@pytest.mark.parametrize(("folder", "task"), [("TiQuAD", TIQUAD), ("foqa", FOQA)], ids=["tiquad", "foqa"])
def test_sets_of_one_language_are_read_whatever_their_files_are_called(tmp_path: Path, folder, task, names, tested):
    for name in names:
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(json.dumps(squad_file("en")))
    data = Data(tmp_path)
    ((tag, paths),) = task.source.tests(data).items()
    assert tag == {"tiquad": "tir_Ethi", "foqa": "fao_Latn"}[task.name]
    assert sorted(p.name for p in paths) == sorted(tested)
    assert len(task.read(data, tag)["test"]) == 2 * len(tested)
    paths[0].write_text('{"rows": []}')
    with pytest.raises(Refused, match="is not in the layout of SQuAD"):
        task.read(data, tag)


def test_a_folder_without_such_a_file_is_a_skipped_row_that_says_what_is_read(tmp_path: Path):
    (tmp_path / "foqa").mkdir()
    (tmp_path / "foqa" / "train.json").write_text("{}")
    (tmp_path / "foqa" / "test.parquet").write_bytes(b"PAR1")
    courses, skips = courses_of(FOQA, Data(tmp_path), Options())
    assert not courses
    assert [s.reason for s in skips] == [
        "foqa or FoQA: no *.json in SQuAD's layout to test on (train*.json is not) in that folder of --data"
    ]


def test_missing_and_broken_files_are_sentences(tmp_path: Path, data: Data):
    with pytest.raises(Missing, match="mlqa or MLQA_V1: no such folder"):
        MLQA.languages(data)
    courses, skips = courses_of(XQUAD, data, Options())
    assert not courses
    assert {s.language for s in skips} == {"eng_Latn", "arb_Arab", "cmn_Hans", "hin_Deva"}
    assert all("no train examples in eng_Latn" in s.reason for s in skips)
    (tmp_path / "xquad").mkdir()
    (tmp_path / "xquad" / "xquad.en.json").write_text('{"data": [{"paragraphs": [{}]}]}')
    with pytest.raises(Refused, match="not in the layout of SQuAD"):
        XQUAD.read(Data(tmp_path), "eng_Latn")


@XQUAD_FILES
def test_real_xquad_gold_is_100_shuffled_is_near_0(texts: Texts):
    data = Data(SHARED_DATA)
    assert {*XQUAD_SPLIT.languages(data)} == {"arb_Arab", "deu_Latn", "eng_Latn", "tur_Latn"}
    parts = {t: XQUAD_SPLIT.read(data, t) for t in ("eng_Latn", "arb_Arab")}
    assert [[len(p[k]) for k in ("train", "dev", "test")] for p in parts.values()] == [[757, 234, 199]] * 2
    ids = {t: [a.question.id for a in p["test"]] for t, p in parts.items()}
    assert ids["eng_Latn"] == ids["arb_Arab"]  # the same questions are held out in all languages
    for part in parts.values():
        # A vocabulary of bytes: what is longer than two windows share (a third of a row) may be whole in neither.
        examples = [a for a in part["test"] if len(a.question.answers[0].encode()) < 90][:80]
        assert len(examples) == 80
        items = XQUAD_SPLIT.items(examples, Texts(texts.words, 1024), train=False)
        outputs = gold(items, examples)
        scores = figures(XQUAD_SPLIT, examples, items, outputs)
        assert scores["exact_match"] == 1.0
        assert scores["f1"] == 1.0
        turned = examples[40:] + examples[:40]
        wrong = figures(XQUAD_SPLIT, turned, items, outputs)
        assert wrong["exact_match"] < 0.05
        assert wrong["f1"] < 0.12


def test_gzip_is_read(tmp_path: Path):
    (tmp_path / "xquad").mkdir()
    with gzip.open(tmp_path / "xquad" / "xquad.en.json.gz", "wt", encoding="utf-8") as stream:
        json.dump(squad_file("en"), stream)
    assert len(XQUAD.read(Data(tmp_path), "eng_Latn")["test"]) == 2


def test_loss_and_prediction_point_at_the_same_tokens(data: Data, texts: Texts):
    """A head that sees the target in x finds it, and its loss is near zero."""
    examples = XQUAD.read(data, "eng_Latn")["test"]
    items = XQUAD.items(examples, texts, train=True)
    lengths = torch.tensor([len(i.rows[0].ids_T) for i in items])
    x_TD = torch.zeros(int(lengths.sum()), 2)
    for begin, item in zip(np.cumsum([0, *lengths[:-1].tolist()]), items, strict=True):
        x_TD[begin + item.target[0], 0] = x_TD[begin + item.target[1], 1] = 30.0
    head = XQUAD.head(2)
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(2))
        head.out.bias.zero_()
    assert float(XQUAD.loss(head, x_TD, lengths, items).detach()) < 1e-6
    outputs = XQUAD.predict(head, x_TD, lengths, items)
    assert figures(XQUAD, examples, items, outputs) == {"f1": 1.0, "exact_match": 1.0}
