"""Chains of training (SIQA before COPA, MNLI before RTE), run for real on tiny sets in the published layouts."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch

from mmenc.downstream import runner, suite, tuning
from mmenc.downstream.backbone import of_subject
from mmenc.downstream.choice import SIQA, XCOPA, XCOPA_DIRECT
from mmenc.downstream.course import courses_of, first_course, shared
from mmenc.downstream.glue import GLUE, MNLI, MNLI_MM, RTE
from mmenc.downstream.options import Options
from mmenc.downstream.runner import Runner
from mmenc.downstream.sources import Data
from mmenc.downstream.suite import Plan, score
from mmenc.downstream.units import Units
from mmenc.sections import Evaluate
from tests.small_encoder import small_encoder

GOOD = ("warm", "bright", "happy")
BAD = ("cold", "dark", "angry")
OPTIONS = Options(seeds=2, rates=(3e-3,), steps=24)


def story(draw: random.Random) -> tuple[str, str, str]:
    """A text and the two words of which only one goes with it."""
    mood = draw.choice((GOOD, BAD))
    other = BAD if mood is GOOD else GOOD
    return f"It was {draw.choice(mood)} and {draw.choice(mood)}.", draw.choice(mood), draw.choice(other)


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def siqa(n: int, seed: int) -> list[dict]:
    draw, found = random.Random(seed), []
    for _ in range(n):
        text, right, wrong = story(draw)
        answers, at = [wrong, wrong, wrong], draw.randrange(3)
        answers[at] = right
        letters = {f"answer{x}": answer for x, answer in zip("ABC", answers, strict=True)}
        found.append({"context": text, "question": "How?", "correct": "ABC"[at], **letters})
    return found


def copa(n: int, seed: int) -> list[dict]:
    draw, found = random.Random(seed), []
    for i in range(n):
        (text, right, wrong), label = story(draw), draw.randrange(2)
        pair = (right, wrong) if label == 0 else (wrong, right)
        found.append({"premise": text, "question": "effect", "choice1": pair[0], "choice2": pair[1], "label": label, "idx": i})
    return found


def nli(n: int, seed: int, names: tuple[str, str], head: str) -> str:
    """Tab-separated as GLUE's: the hypothesis goes with the premise or not."""
    draw, rows = random.Random(seed), [head]
    for i in range(n):
        (text, right, wrong), yes = story(draw), draw.random() < 0.5
        rows.append(f"{i}\t{text}\tIt was {right if yes else wrong}.\t{names[0] if yes else names[1]}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    lines(folder / "siqa/socialIQa_v1.4_trn.jsonl", siqa(96, 0))
    lines(folder / "siqa/socialIQa_v1.4_dev.jsonl", siqa(24, 1))
    lines(folder / "copa/train.jsonl", copa(64, 2))
    lines(folder / "copa/val.jsonl", copa(24, 3))
    for language in ("et", "tr"):
        lines(folder / f"xcopa/data/{language}/test.{language}.jsonl", copa(20, 4))
    head = "index\tsentence1\tsentence2\tgold_label"
    (folder / "glue/MNLI").mkdir(parents=True)
    (folder / "glue/RTE").mkdir()
    for part, n in (("train", 120), ("dev_matched", 20), ("dev_mismatched", 20)):
        (folder / f"glue/MNLI/{part}.tsv").write_text(nli(n, n, ("entailment", "contradiction"), head))
    for part, n in (("train", 60), ("dev", 20)):
        text = nli(n, n + 1, ("entailment", "not_entailment"), head.replace("gold_label", "label"))
        (folder / f"glue/RTE/{part}.tsv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    texts = [f"It was {a} and {b}. What happened as a result?" for a in (*GOOD, *BAD) for b in (*GOOD, *BAD)]
    return small_encoder(tmp_path_factory.mktemp("ours") / "small", texts)


def made(subject, root: Path, units: Path, options: Options = OPTIONS, firsts=("siqa", "mnli")) -> Runner:
    return Runner(of_subject(subject, False), Units(units), options, Data(root), lambda *_: None, firsts)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_copa_goes_on_where_siqa_ended_head_included(subject, root: Path, tmp_path: Path):
    mine = made(subject, root, tmp_path / "units")
    (course,) = courses_of(XCOPA, mine.data, OPTIONS)[0]
    first = mine.whole(mine.first(SIQA), 3e-3, 0, {})
    kept = [w.clone() for w in first.body.parameters()]
    run = mine.train(course, 3e-3, 0)
    # The loss of the first batch is that of SIQA's own weights and head.
    data = mine.labelled(XCOPA, course.train, train=True)
    chosen = [data.items[i] for i in tuning.batches(data.items, tuning.BATCH, 0, XCOPA.training, course.language, 3e-3, 0)[0]]
    with torch.no_grad():
        x_TD, lengths = first.body([r for item in chosen for r in item.rows])
        began = float(XCOPA.loss(first.head, x_TD, lengths, chosen))
    assert run.losses[0] == pytest.approx(began, abs=1e-6)
    (direct,) = courses_of(XCOPA_DIRECT, mine.data, OPTIONS)[0]
    without = mine.train(direct, 3e-3, 0)
    assert abs(run.losses[0] - without.losses[0]) > 0.05
    assert run.losses[0] < without.losses[0], "the same question was learnt before"
    assert first.losses[-1] < 0.8 * first.losses[0]
    assert without.losses[-1] < without.losses[0]
    assert not same(first.body, mine.backbone.body)
    assert all(torch.equal(a, b) for a, b in zip(kept, first.body.parameters(), strict=True)), "COPA trains a copy"


def plan(root: Path, names: tuple[str, ...], options: Options = OPTIONS) -> Plan:
    return Plan(names, Data(root), options, Evaluate(bootstrap=50), ["unseen"], lambda tag: "unseen")


@pytest.fixture
def tuned(monkeypatch) -> list[str]:
    """Names of the tasks that are trained, in order."""
    order: list[str] = []
    real = runner.tune
    monkeypatch.setattr(runner, "tune", lambda task, *args, **more: (order.append(task.training), real(task, *args, **more))[1])
    return order


def test_xcopa_is_measured_through_the_chain(subject, root: Path, tmp_path: Path, tuned: list[str]):
    found = score(subject, False, plan(root, ("choice",)), Units(tmp_path / "units"))
    ok = {(r["task"], r["language"]): r for r in found.rows if r["status"] == "ok" and r["language"]}
    assert {t for t, _ in ok} == {"xcopa/zero-shot", "xcopa-direct/zero-shot"}
    assert {t for _, t in ok} == {"ekk_Latn", "tur_Latn"}
    assert all((r["seeds"], r["n"]) == (2, 20) for r in ok.values())
    assert ok["xcopa/zero-shot", "ekk_Latn"]["mean"] > 0.6, "its languages are English here, so it can be learnt"
    assert sorted(tuned) == ["copa", "copa", "copa-direct", "copa-direct", "siqa", "siqa"]
    again = score(subject, False, plan(root, ("choice",)), Units(tmp_path / "units"))
    assert again.rows == found.rows
    assert len(tuned) == 6, "all from units"
    assert again.seconds.keys() == found.seconds.keys()
    assert again.seconds["copa, zero-shot"] == pytest.approx(found.seconds["copa, zero-shot"])


def test_rte_goes_on_from_mnli_which_is_trained_once_per_seed(subject, root: Path, tmp_path: Path, tuned: list[str]):
    found = score(subject, False, plan(root, ("glue",)), Units(tmp_path / "units"))
    status = {r["task"]: (r["status"], r["reason"]) for r in found.rows if not r["language"] and r["tier"] == "all"}
    told = "protocol full, seeds 2, rates 0.003, steps 24; learning rate 0.003"
    assert status["rte"] == status["mnli"] == status["mnli-mm"] == ("ok", told)
    assert status["cola"] == ("skipped", "no CoLA/dev.tsv in the folder glue of --data")
    assert status["glue/average"][0] == "skipped"
    assert sorted(tuned) == ["mnli", "mnli", "rte", "rte"], "RTE's start and MNLI's own figures are one run"
    mine = made(subject, root, tmp_path / "other")
    run = mine.train(courses_of(RTE, mine.data, OPTIONS)[0][0], 3e-3, 0)
    (alone,) = courses_of(RTE, mine.data, OPTIONS)[0]
    plain = tuning.tune(
        RTE, mine.backbone, mine.labelled(RTE, alone.train, train=True), mine.labelled(RTE, alone.dev), 3e-3,
        (0, "rte", alone.language, 3e-3), RTE.recipe, 24,
    )  # fmt: skip
    assert run.losses[0] != plain.losses[0], "the head is new, the encoder is MNLI's"
    assert run.dev >= plain.dev


def test_a_unit_depends_on_what_was_trained_before(subject, root: Path, tmp_path: Path):
    """Other MNLI data gives other RTE figures: the finished ones must not be taken."""
    mine = made(subject, root, tmp_path / "units")
    course = courses_of(RTE, mine.data, OPTIONS)[0][0]
    names = partial(mine.names, course, 3e-3, 0)
    before = names()
    mine.first(MNLI).__dict__.update(learned="of other data")
    assert names() != before
    shorter = made(subject, root, tmp_path / "units", Options(seeds=2, rates=(3e-3,), steps=24, limit=10))
    assert shorter.names(course, 3e-3, 0)["before"] != before["before"]


def test_without_the_first_task_the_row_says_so(subject, root: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name in ("copa", "xcopa"):
        (tmp_path / "data" / name).symlink_to(root / name)
    found = score(subject, False, plan(tmp_path / "data", ("choice",)), Units(tmp_path / "units"))
    told = {r["reason"] for r in found.rows if r["task"] == "xcopa/zero-shot" and r["language"] != "eng_Latn"}
    assert told == {"siqa is trained first: no file siqa/…/socialIQa_v1.4_trn.jsonl or train.jsonl in --data"}
    assert any(r["task"] == "xcopa-direct/zero-shot" and r["status"] == "ok" for r in found.rows)


def test_both_test_sets_of_mnli_share_runs_whatever_the_limit(root: Path):
    data, options = Data(root), Options(limit=50)
    both = [c for task in (MNLI, MNLI_MM) for c in courses_of(task, data, options)[0]]
    assert len(both[0].train) == 50
    (joined,) = shared(both)
    assert [t.task.name for t in joined.tests] == ["mnli", "mnli-mm"]
    assert first_course(MNLI, data, 50).learned == joined.learned, "what RTE starts from is MNLI's own run"
    assert {t.name for t in GLUE.tasks if t.before is MNLI} == {"rte", "mrpc", "stsb"}


def test_progress_says_what_is_done(subject, root: Path, tmp_path: Path, monkeypatch):
    titles, real = [], suite.bar
    monkeypatch.setattr(suite, "bar", lambda title, *more: (titles.append(title), real(title, *more))[1])
    (tmp_path / "tatoeba").mkdir()
    for side in ("deu", "eng"):
        (tmp_path / f"tatoeba/tatoeba.deu-eng.{side}").write_text("It was warm.\nIt was cold.\n")
    score(subject, False, plan(tmp_path, ("bitext",)), Units(tmp_path / "units"))
    assert titles == ["mine bitext with small"], "nothing is tuned, and the bar does not say so"
    score(subject, False, plan(tmp_path, ("sib200",)), Units(tmp_path / "units"))
    assert titles[1:] == ["fine-tune small"]
    functions = {n for n in suite.SUITES if not isinstance(suite.find(n), suite.Suite)}
    assert functions == set(suite.DOING)
