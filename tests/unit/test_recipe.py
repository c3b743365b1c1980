"""The recipe: every wrong file is one sentence that names path, found, expected and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmenc.errors import Refused
from mmenc.recipe import load, parse
from tests.pipeline import REPO, tiny_recipe


def change(path: str, value: object) -> dict:
    recipe = tiny_recipe()
    node = recipe
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    return recipe


WRONG = [
    ("phases.pretrain.maks", 0.3, "phases.pretrain: unknown key 'maks'; did you mean 'mask'?"),
    ("tokeniser", {}, "unknown key 'tokeniser'; did you mean 'tokenizer'?"),
    ("phases.pretrain.mask", 1.5, "phases.pretrain.mask is 1.5; input should be less than 1"),
    ("phases.pretrain.context", 100, "phases.pretrain.context: 100 is not a multiple of model.window 32"),
    ("phases.extend.languages", "high", ""),
    ("phases.decay-all.languages", "high", "'high' drops languages of its parent extend"),
    ("phases.pretrain.init", "decay-all", "form a cycle: pretrain -> decay-all -> extend -> pretrain"),
    ("phases.extend.init", "pretrian", "no phase is called 'pretrian'; did you mean 'pretrain'?"),
    ("phases.extend.init", "init", "2 phases start from init"),
    ("phases.extend.languages", "middel", "no language set is called 'middel'; did you mean 'middle'?"),
    ("phases.extend.context", 32, "shorter than the 64 of its parent"),
    ("phases.pretrain.lr.warmup", 24_000, "24000 tokens of warm-up do not fit into 24000 tokens"),
    ("phases.pretrain.batch_tokens", 1000, "1000 is not a multiple of the context 64"),
    ("phases.pretrain.buckets", {"a": {"share": 0.6, "source": "x"}, "b": {"share": 0.5, "source": "y"}}, "add up to 1.1"),
    ("languages.middle", {"top": 0}, "languages.middle"),
    ("languages.middle", ["deu_Latn"], "drops eng_Latn, which high before it has"),
    ("languages.high", ["english"], "languages.high.0 is 'english'"),
    ("merge.branches", ["decay-al"], "no phase is called 'decay-al'; did you mean 'decay-all'?"),
    ("merge.branches", ["pretrain"], "pretrain starts from init, not from the base extend"),
    ("model.heads", 3, "3 heads do not divide hidden 32"),
    ("model.layers", 5, "5 layers with a global one every 3"),
    ("compute", {"threads": "many"}, "compute.threads is 'many'"),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_recipe_is_one_sentence(path, value, expected):
    if not expected:
        parse(change(path, value))
        return
    with pytest.raises(Refused) as error:
        parse(change(path, value), "params.yaml")
    message = str(error.value)
    assert expected in message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


def test_missing_section_is_named():
    recipe = tiny_recipe()
    del recipe["merge"]
    with pytest.raises(Refused, match="merge is missing"):
        parse(recipe)


@pytest.mark.parametrize("name", ["params.yaml", *sorted(str(p.relative_to(REPO)) for p in (REPO / "recipes").glob("*.yaml"))])
def test_every_recipe_of_the_repository_loads(name):
    assert load(REPO / name).phases


def test_numbers_survive_yaml_and_kubeflow(tmp_path: Path):
    text = (REPO / "params.yaml").read_text()
    assert "3e-3" in text
    recipe = load(REPO / "params.yaml")
    assert recipe.phases["pretrain"].lr.peak == 0.003
    as_floats = change("phases.pretrain.batch_tokens", 512.0)
    assert parse(as_floats) == parse(tiny_recipe())
    assert isinstance(parse(as_floats).phases["pretrain"].batch_tokens, int)
    with pytest.raises(Refused, match=r"batch_tokens is 512\.5"):
        parse(change("phases.pretrain.batch_tokens", 512.5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "key 'seed' stands there twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "found list, expected a mapping"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text, expected):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(Refused, match=expected):
        load(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path):
    (tmp_path / "params.yaml").write_bytes(b"seed: 1 # \xff")
    with pytest.raises(Refused, match="not UTF-8 at byte 10"):
        load(tmp_path / "params.yaml")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_any_data_is_refused_with_a_sentence_or_accepted(data):
    with pytest.raises(Refused):
        parse(data)


@given(st.sampled_from(["mask", "temperature", "tokens", "context", "rope_theta"]), st.floats() | st.integers() | st.text())
def test_any_value_of_a_phase_is_refused_or_round_trips(key, value):
    try:
        recipe = parse(change(f"phases.pretrain.{key}", value))
    except Refused:
        return
    assert parse(recipe.model_dump(by_alias=True)) == recipe
