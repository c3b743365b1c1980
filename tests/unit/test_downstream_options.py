"""Options of an evaluation: protocols by name, what is refused, and rows that say what was asked for and is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenc.cli import _parser
from mmenc.downstream.classify_suites import SIB, sib_languages, sib_read
from mmenc.downstream.course import courses_of
from mmenc.downstream.options import QUICK, RATES, Options
from mmenc.downstream.sources import Data
from mmenc.errors import Refused
from mmenc.place import resources
from mmenc.recipe import load
from mmenc.sections import Tuning
from tests.pipeline import REPO


def given(*words: str) -> Options:
    return Options.of(_parser().parse_args(["evaluate", "m", "--out", "o", *words]))


def test_the_paper_like_protocol_is_the_default_and_quick_is_one_option():
    assert given() == Options.of_recipe(Tuning()) == Options()
    assert (given().seeds, given().rates, given().steps, given().limit) == (3, RATES, 0, 0)
    assert given("--quick") == QUICK
    assert Options.of_recipe(Tuning(rates=[2e-4, 2e-3], steps=100)) == QUICK, "in a recipe the figures are written down"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "full"),
        (["--languages", "fao_Latn", "--hub"], "full"),
        (["--quick"], "quick"),
        (["--quick", "--seeds", "1"], "quick, seeds 1"),
        (["--quick", "--limit", "200"], "quick, limit 200"),
        (["--seeds", "3", "--steps", "300"], "full, steps 300"),
        (["--rates", "1e-3,3e-3", "--modes", "language"], "full, rates 0.001/0.003, modes language"),
    ],
)
def test_a_protocol_is_named_with_what_differs(words: list[str], name: str):
    assert given(*words).protocol == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rates", "nan"], "expected positive numbers"),
        (["--rates", "3"], "expected positive numbers"),
        (["--seeds", "0"], "expected positive numbers"),
        (["--steps", "-1"], "expected positive numbers"),
        (["--languages", "faroese"], "'faroese' is no tag; expected a language and its script, such as fao_Latn"),
    ],
)
def test_refusals(words: list[str], message: str):
    with pytest.raises(Refused, match=message):
        given(*words)


def sib(root: Path, *names: str) -> Data:
    for name in names:
        (root / "sib200" / name).mkdir(parents=True)
        for part in ("train", "dev", "test"):
            (root / "sib200" / name / f"{part}.tsv").write_text(f"index_id\tcategory\ttext\n0\ttravel\tin {name}\n")
    return Data(root)


def test_languages_have_the_tags_of_the_recipe_and_two_folders_of_one_tag_stay_apart(tmp_path: Path):
    data = sib(tmp_path, "est_Latn", "eng_Latn", "ajp_Arab", "apc_Arab")
    assert sib_languages(data) == ["ajp_Arab", "apc_Arab", "ekk_Latn", "eng_Latn"]
    assert [sib_read(data, t)["test"][0].text for t in sib_languages(data)] == [
        "in ajp_Arab", "in apc_Arab", "in est_Latn", "in eng_Latn",
    ]  # fmt: skip


def test_a_language_that_was_asked_for_and_is_not_there_is_a_skipped_row(tmp_path: Path):
    (course,), skips = courses_of(SIB, sib(tmp_path, "eng_Latn", "fra_Latn"), Options(languages=("fra_Latn", "fao_Latn")))
    assert [t.language for t in course.tests] == ["fra_Latn"]
    assert [(s.language, s.reason) for s in skips] == [("fao_Latn", "not in --data")]
    (tmp_path / "empty" / "sib200").mkdir(parents=True)
    courses, (skip,) = courses_of(SIB, Data(tmp_path / "empty"), Options())
    assert (courses, skip.label, skip.reason) == ([], "sib200/zero-shot", "no language of it in --data")


def test_an_evaluation_that_tunes_gets_an_accelerator_where_training_does():
    recipe = load(REPO / "params.yaml")
    on_gpu = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"device": "cuda"})})
    tuned = on_gpu.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"suites": ["intrinsic", "sib200"]})})
    assert [resources(r, "evaluate", "init").accelerators for r in (recipe, on_gpu, tuned)] == [0, 0, 1]
