"""The further graphs, continue and evaluate: run task by task on real text, with the digests of the local commands."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from mmenc.artifact import Artifact
from mmenc.compare import compare
from mmenc.errors import Refused
from mmenc.recipe import load, parse
from mmenc.steps import TABLE
from tests.overlay import cut_down
from tests.pipeline import REPO, contents, run_all, run_stage, tiny_recipe, workplace, write_recipe

pytest.importorskip("kfp")
NAMES = {"decay-first": "first", "decay.second": "second"}


def run_graph(compiled: Path, root: Path, **parameters: str) -> Path:
    from kfp import components, local

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a laptop cannot honour: limits, images, display names
        patch.delenv("MMENC_STATE", raising=False)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        components.load_component_from_file(str(compiled))(**parameters)
    return root


def made(root: Path) -> dict[str, set[tuple[str, str]]]:
    """(digest, content) of every artifact that a graph has made, by its folder of the step table."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in root.rglob("manifest.json"):
        manifest = Artifact.read(path.parent).manifest
        if manifest.step != "report":
            folder = TABLE[manifest.step].folder.format(name=manifest.name)
            found.setdefault(folder, set()).add((manifest.digest, manifest.content))
    return found


def plain(path: Path) -> dict[str, Any]:
    return load(path).model_dump(mode="json", by_alias=True)


@pytest.fixture(scope="module")
def continued(finished: Path, corpus: Path, tmp_path_factory) -> tuple[Path, Path]:
    """A local run of recipes/continue.yaml from the finished release, and one of its graph, which imports the release."""
    place = tmp_path_factory.mktemp("continue")
    start = shutil.copytree(finished / "artifacts" / "release", place / "start")
    recipe = cut_down(plain(REPO / "recipes" / "continue.yaml"), source=str(start))
    folder = workplace(place / "local", corpus, recipe)
    with pytest.MonkeyPatch.context() as patch:
        run_all(folder, patch)
    compiled = place / "continue.yaml"
    importlib.import_module("pipelines.continue").write(load(folder / "params.yaml"), compiled)
    elsewhere = start.rename(place / "elsewhere")  # the path in the recipe means nothing in a pod
    root = run_graph(compiled, place / "root", data_uri=str(folder / "data"), source_uri=str(elsewhere))
    elsewhere.rename(start)
    return folder, root


def test_continue_gives_the_digests_and_contents_of_the_local_commands(continued):
    folder, root = continued
    assert made(root) == {key: {value} for key, value in contents(folder).items()}
    init = Artifact.read(folder / "artifacts/train/init").manifest
    assert [row["path"] for row in init.inputs] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_pretrain_brings_a_released_model_by_itself(tmp_path: Path):
    """Both graphs of such a recipe differ in their name alone, so choosing the other one is no mistake."""
    recipe = load(REPO / "recipes" / "continue.yaml")
    texts = {}
    for kind in ("pretrain", "continue"):
        importlib.import_module(f"pipelines.{kind}").write(recipe, tmp_path / f"{kind}.yaml")
        texts[kind] = re.sub("(?i)pretrain|continue", "KIND", (tmp_path / f"{kind}.yaml").read_text())
    assert texts["pretrain"] == texts["continue"]


def test_graphs_refuse_what_they_cannot_do(tmp_path: Path):
    out = tmp_path / "p.yaml"
    proceed, side = (importlib.import_module(f"pipelines.{name}") for name in ("continue", "evaluate"))
    with pytest.raises(Refused, match=r"model\.source: is 'random'; to continue, expected a released model"):
        proceed.write(load(REPO / "params.yaml"), out)
    recipe = plain(REPO / "recipes" / "continue.yaml")
    recipe["tokenizer"]["source"] = "models/other"
    with pytest.raises(Refused, match="a pipeline brings one released model, expected the same in both"):
        proceed.write(parse(recipe), out)
    for models in (None, {}, {f"m{i}": "s3://m" for i in range(9)}):
        with pytest.raises(Refused, match="expected 1 to 8, each as NAME=URI"):
            side.write(load(REPO / "params.yaml"), out, models=models)
    with pytest.raises(Refused, match="becomes the parameter uri_a_b, as a-b does"):
        side.write(load(REPO / "params.yaml"), out, models={"a-b": "s3://m/1", "a.b": "s3://m/2"})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def compared(finished: Path, continued, tmp_path_factory) -> tuple[dict[str, Path], Path]:
    """The finished release and the one that went on from it, side by side."""
    place = tmp_path_factory.mktemp("evaluate")
    models = {"decay-first": finished / "artifacts/release", "decay.second": continued[0] / "artifacts/release"}
    recipe = tiny_recipe()
    recipe["model"] |= {"hidden": 64}  # sizes come from each model's config.json
    write_recipe(place, recipe)
    compiled = place / "evaluate.yaml"
    write = importlib.import_module("pipelines.evaluate").write
    write(load(place / "params.yaml"), compiled, models={name: str(path) for name, path in models.items()})
    root = run_graph(compiled, place / "root", data_uri=str(finished / "data"))
    return models, root


def test_evaluate_gives_the_digests_of_the_local_commands(compared, finished: Path, corpus: Path, tmp_path, monkeypatch):
    models, root = compared
    expected: dict[str, set[tuple[str, str]]] = {}
    for name, release in models.items():
        recipe = tiny_recipe()
        config = json.loads((release / "config.json").read_text())
        recipe["model"] |= {"hidden": config["hidden_size"], "source": str(release)}
        recipe["tokenizer"] |= {"source": str(release), "vocab_size": config["vocab_size"]}
        whole = parse(recipe).model_dump(mode="json", by_alias=True)
        del whole["validate"]["suites"]  # read from files, never given
        folder = workplace(tmp_path / NAMES[name], corpus, whole)
        run_all(folder, monkeypatch, upto="init")
        words = "mmenc run evaluate --name merge --out artifacts/evaluate/merge model=artifacts/train/init"
        assert run_stage(folder, [*words.split(), "tokenizer=artifacts/tokenizer", "tokens=artifacts/tokenize"], monkeypatch) == 0
        for key, value in contents(folder).items():
            expected.setdefault(key, set()).add(value)
    assert made(root) == expected
    assert len(expected["evaluate/merge"]) == 2
    assert len(expected["ingest"]) == 1


def test_models_stand_side_by_side(compared):
    models, root = compared
    page = next(p for p in root.rglob("page") if p.parent.name == "compare").read_text(encoding="utf-8")
    assert len(page.encode()) < 400_000
    ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    text = re.sub(r"<[^>]+>", " ", page)
    assert all(name in text for name in models)
    assert "★" in text
    assert "decay.second minus decay-first" in text
    figures = json.loads(next(p for p in root.rglob("metrics") if p.parent.name == "compare").read_text())
    scores = {}
    for path in root.rglob("scores.json"):
        rows = [r for r in json.loads(path.read_text())["rows"] if r["model"] == "merge" and r["metric"] == "bits_per_byte"]
        scores[path] = next(r["mean"] for r in rows if r["tier"] == "all" and not r["language"])
    found = [figures[f"{name}.mlm.bits_per_byte"] for name in models]
    assert sorted(found) == pytest.approx(sorted(scores.values()), abs=1e-5)


def test_evaluate_compiles_with_what_the_recipe_says_where_a_model_is_not_at_hand(tmp_path: Path):
    write = importlib.import_module("pipelines.evaluate").write
    for path in [REPO / "params.yaml", *sorted((REPO / "recipes").glob("*.yaml"))]:
        recipe = load(path)
        write(recipe, tmp_path / "e.yaml", models={"Mine": "s3://models/mine"})
        spec = next(yaml.safe_load_all((tmp_path / "e.yaml").read_text()))
        parameters = spec["root"]["inputDefinitions"]["parameters"]
        assert parameters["uri_mine"]["defaultValue"] == "s3://models/mine"
        sizes = parameters["model_mine"]["defaultValue"]
        assert (sizes["hidden"], sizes["source"], sizes["resize"]) == (recipe.model.hidden, "s3://models/mine", "none")
        assert all(p["description"] for p in parameters.values())


def rows(**languages: float) -> list[dict[str, Any]]:
    plain_row = {"task": "mlm", "metric": "bits_per_byte", "tier": "high", "status": "ok"}
    return [{**plain_row, "language": f"{t}_Latn", "mean": value} for t, value in languages.items()]


def test_only_common_languages_are_compared_and_ties_have_no_best():
    page, figures = compare({"a": rows(eng=1.0, deu=2.0, fra=9.0), "b": rows(eng=3.0, deu=2.0)}, 50)
    assert figures == {"a.mlm.bits_per_byte": 1.5, "b.mlm.bits_per_byte": 2.5}
    assert "fra_Latn" not in page
    same, _ = compare({"a": rows(eng=1.0), "b": rows(eng=1.0)}, 50)
    assert "★" not in same.partition("</p>")[2]
    worse, _ = compare({"a": rows(eng=1.0, deu=1.5), "b": rows(eng=2.0, deu=2.5)}, 50)
    assert "worse" in worse
    with pytest.raises(Refused, match="no language was measured for all of them"):
        compare({"a": rows(eng=1.0), "b": rows(deu=1.0)}, 50)
