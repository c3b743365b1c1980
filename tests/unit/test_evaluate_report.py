"""What each phase brought, by the phase that introduced a language: differences by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mmenc.compare import compare
from mmenc.report.intrinsic import brought, introduced, matrix, script_table
from mmenc.report.story import gather
from tests.unit.test_report import World, make_recipe, phase


@pytest.fixture
def story(tmp_path):
    phases = {
        "first": phase("init", "high"),
        "all": phase("first"),
        "left": phase("all"),
    }
    recipe = make_recipe(phases, "all", ["left"], {"high": ["eng_Latn"], "tail": "all"})
    world = World(recipe, ["eng_Latn", "arb_Arab", "tha_Thai"], tmp_path, retrieval=True)
    return gather(recipe, world.inputs(), tmp_path)


def plain(parts: list[str]) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", " ".join(parts))).replace("\u00a0", " ")


def test_a_language_is_new_in_the_first_phase_whose_set_has_it(story):
    assert introduced(story) == {"first": ["eng_Latn"], "all": ["arb_Arab", "tha_Thai"]}


def test_what_a_phase_brought_is_its_difference_to_where_it_started(story):
    text = plain(brought(story))
    assert "new in first (1)" in text
    assert "new in all (2)" in text
    # 2.9 bits per byte after the first phase, 0.1 fewer after each further one (World.scores)
    assert re.search(r"all first ✓? ?-0\.100 .*?1 of 1 better ✓ -0\.100 +\[-0\.100, -0\.100\], 2 of 2 better", text)
    assert re.search(r"left all -0\.100", text)
    assert "all: its 2 new languages, those that gain most first" in text
    assert "2.900 2.800 -0.100" in text


def test_only_random_weights_are_a_uniform_guess(story):
    key = ("first", "mlm", "loss", "high", "eng_Latn")
    loss = story.rows["first", "mlm", "bits_per_byte", "high", "eng_Latn"] | {"metric": "loss", "mean": 8.0}
    story = replace(story, rows={**story.rows, key: loss})
    assert "first a uniform guess" in plain(brought(story))
    model = story.recipe.model.model_copy(update={"source": "released/base"})
    text = plain(brought(replace(story, recipe=story.recipe.model_copy(update={"model": model}))))
    assert "uniform" not in text
    assert "Without first: the model that was taken over was not evaluated before." in text
    assert re.search(r"all first ✓? ?-0\.100", text)


def test_one_language_is_no_verdict():
    def rows(model: str, mean: float, tags: list[str]) -> list[dict]:
        kinds = {"model": model, "digest": model, "task": "mlm", "metric": "bits_per_byte", "tier": "all", "status": "ok"}
        return [{**kinds, "language": t, "mean": mean, "low": mean, "high": mean, "reason": ""} for t in tags]

    def page(*tags: str) -> str:
        made = compare({"a": rows("a", 3.0, list(tags)), "b": rows("b", 2.0, list(tags))}, 50)[0]
        return plain([made.split("<body")[1]]).replace("✓ and ✕ where", "")

    assert "no difference shown; wins 1, loses 0" in page("fao_Latn")
    assert not re.search("[✓✕]", page("fao_Latn"))
    assert "better; wins 2, loses 0" in page("fao_Latn", "eng_Latn")
    assert "✓" in page("fao_Latn", "eng_Latn")


def test_a_matrix_keeps_the_first_kinds_and_says_how_many_more_there_are():
    names = [f"S{i}" for i in range(14)]
    rows = {n: [0.5 if i != j else None for j in range(14)] for i, n in enumerate(names)}
    found = {"scripts": {"names": names, "languages": [1] * 14, "accuracy": rows, "accuracy_centred": rows}, "chance": 0.2}
    text = plain([matrix(found, "scripts")])
    assert "S11 (1)" in text
    assert "S12" not in text
    assert "2 more scripts are in the artifact" in text


def test_figures_by_script_have_their_intervals():
    text = plain(
        [script_table({"Latn": {"mlm.bits_per_byte": [3.0, 2.5, 3.5, 7]}, "Grek": {"mlm.accuracy": [0.5, 0.5, 0.5, 1]}})]
    )
    assert "Latn 7 3.000 [2.500, 3.500]" in text
    assert "Grek 1 50.0" in text
