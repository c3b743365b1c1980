"""The Kubeflow face: it matches the step table, recipes compile to the same bytes, results equal those of dvc.yaml."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mmenc.artifact import Artifact
from mmenc.cli import main
from mmenc.errors import Refused
from mmenc.kubeflow import PLANNED, complete, figures, identifiers, run_step, send, surroundings
from mmenc.recipe import Recipe, load, parse
from mmenc.steps import TABLE
from tests.pipeline import REPO, contents, hashes, made, tiny_recipe

json_format = pytest.importorskip("google.protobuf.json_format")
pytest.importorskip("kfp")
RECIPES = [REPO / "params.yaml", *sorted((REPO / "recipes").glob("*.yaml"))]
MODULES = sorted((REPO / "components").glob("*.py"))


def as_kubeflow_sends(value):
    """Every whole number inside a dict arrives as a float, and keys in any order (a protobuf map): here the other way round."""
    if isinstance(value, dict):
        return {k: as_kubeflow_sends(v) for k, v in sorted(value.items(), reverse=True)}
    if isinstance(value, list):
        return [as_kubeflow_sends(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def calls() -> dict[str, tuple[ast.FunctionDef, ast.Call]]:
    """Each face's function and its one call, by the step that the call names."""
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "run_step":
                        found[call.args[0].value] = (node, call)
    return found


def literal(function: ast.FunctionDef, name: str) -> dict[str, object]:
    """Keys of the dict that a face assigns to a name; the values are names, or lists of names."""
    value = next(n.value for n in ast.walk(function) if isinstance(n, ast.Assign) and n.targets[0].id == name)
    return {
        k.value: [e.id for e in v.elts] if isinstance(v, ast.List) else v.id
        for k, v in zip(value.keys, value.values, strict=True)
    }


def test_every_step_has_one_face_with_its_version_roles_and_sections():
    faces = calls()
    assert sorted(faces) == sorted(TABLE)
    for name, (function, call) in faces.items():
        step = TABLE[name]
        assert function.name == name
        assert call.args[1].value == step.version, name
        assert isinstance(call.args[2], ast.Name) == step.instances, name
        inputs = literal(function, "inputs")
        taken_over = ["source"] if step.source else []
        assert sorted(inputs) == sorted([*(r.rstrip("*") for r in step.reads), *step.raw, *taken_over]), name
        assert {r for r, v in inputs.items() if isinstance(v, list)} == {r[:-1] for r in step.reads if r.endswith("*")}
        # One phase where the table says `phases.{name}`, so that another phase's figures are no arguments of this task.
        declared = {"phase" if p == "phases.{name}" else p.split(".")[0] for p in step.params}
        assert set(literal(function, "sections")) - {"compute", "store", "languages", "tokenizer"} <= declared, name
        assert declared <= set(literal(function, "sections")), name
        decorator = next(k.value.id for k in function.decorator_list[0].keywords if k.arg == "base_image")
        assert decorator == step.image.upper(), name


def test_every_input_and_output_of_a_face_is_described():
    from pipelines.common import FACES

    for name, face in FACES.items():
        spec = face.component_spec
        assert spec.description, name
        for key, described in [*spec.inputs.items(), *spec.outputs.items()]:
            assert described.description or key == "status", f"{name}.{key}"
        if name != "end":
            assert "metrics" in spec.outputs, name
        shown = {o.type.partition("@")[0] for o in spec.outputs.values()} & {"system.HTML", "system.Markdown"}
        assert shown or name == "init", name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_components_import_only_the_standard_library_and_kfp(path: Path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            root = name.split(".")[0]
            assert root == "kfp" or name == "components.images" or root in sys.stdlib_module_names, name
            assert root != "__future__"  # kfp reads annotations as they stand
    assert "latest" not in path.read_text()


def arguments(recipe: Recipe, sections: list[str], instance: str) -> dict[str, object]:
    """What a face is given of a recipe, as it arrives."""
    sent, keys = send(recipe), identifiers("phase", recipe.phases)
    found = {key: sent[key] for key in sections if key not in ("phase", "phases")}
    found |= {"phase": sent[keys[instance]]} if "phase" in sections else {}
    found |= {"phases": [*(sent[key] for key in keys.values()), None]} if "phases" in sections else {}
    return json.loads(json.dumps({key: as_kubeflow_sends(value) for key, value in found.items()}))


@pytest.mark.parametrize("path", [*RECIPES, None], ids=lambda p: p.name if p else "tiny")
def test_the_sections_of_a_face_give_the_config_of_the_whole_recipe(path: Path | None):
    recipe = load(path) if path else parse(tiny_recipe())
    for name, (function, _) in calls().items():
        step, asked = TABLE[name], list(literal(function, "sections"))
        for instance in [*recipe.phases, *(["merge"] if name == "evaluate" else [])] if step.instances else [""]:
            partial = complete(arguments(recipe, asked, instance), instance)
            whole = {"phase": f"phases.{instance}", "compute": "seed", "store": "compute.store"}
            for key in [whole.get(key, key) for key in asked]:
                # The order of keys counts too: waves, phases and buckets are taken in theirs.
                assert key == "seed" or json.dumps(partial.value(key)) == json.dumps(recipe.value(key)), (name, key)
            for key in step.param_paths(instance):
                assert partial.value(key) == recipe.value(key), (name, key)
            if "compute" in asked:
                assert send(recipe)["compute"].items() <= partial.value("compute").items()


def test_what_only_the_plan_and_the_graph_read_is_no_argument_of_a_task(monkeypatch):
    recipe = load(REPO / "recipes" / "mmbert-base.yaml")
    dearer = parse(recipe.model_dump(mode="json", by_alias=True) | {"compute": recipe.value("compute") | {"price_per_hour": 9.5}})
    assert send(dearer) == send(recipe)
    sent = send(recipe)["compute"]
    assert set(recipe.value("compute")) - set(sent) == PLANNED | {"counts", "cluster", "store"}
    # The run's record has the costs nevertheless: they reach the pod by its environment.
    monkeypatch.setenv("MMENC_COMPUTE", surroundings(dearer))
    found = complete({"compute": sent, "store": "s3://bucket/mmenc"}).value("compute")
    expected = dearer.value("compute") | {"counts": "", "cluster": {}, "store": "s3://bucket/mmenc"}
    assert found | {"cluster": {}} == expected
    elsewhere = complete({"store": "s3://bucket/mmenc"}).value("compute")  # of a step that does not read `compute`
    assert {k for k in elsewhere if elsewhere[k] != found[k]} == {"micro_batch_tokens", "checkpoint_seconds"}


def test_one_phase_changes_the_arguments_of_its_own_tasks_only():
    plain = tiny_recipe()
    plain["phases"]["decay-all"]["mask"] = 0.1
    before, after = send(parse(tiny_recipe())), send(parse(plain))
    assert [key for key in before if before[key] != after[key]] == ["phase_decay_all"]
    with pytest.raises(Refused, match=r"a\.b: becomes the parameter model_a_b, as a-b does"):
        identifiers("model", ["a-b", "a.b"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_recipes_compile_to_equal_bytes_and_a_valid_graph(path: Path, tmp_path: Path):
    from kfp.pipeline_spec import pipeline_spec_pb2

    for name in ("one.yaml", "two.yaml"):
        words = ["--params", str(path), "--image", "registry/cpu:abc", "--gpu-image", "registry/gpu:abc"]
        assert main(["compile", *words, "--out", str(tmp_path / name)]) == 0
    text = (tmp_path / "one.yaml").read_text()
    assert text == (tmp_path / "two.yaml").read_text()
    spec, *platforms = yaml.safe_load_all(text)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec(), ignore_unknown_fields=False)
    for platform in platforms:
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec(), ignore_unknown_fields=False)
    recipe = load(path)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    expected = send(recipe) | {"data_uri": recipe.ingest.root}
    expected |= {"source_uri": recipe.model.source} if recipe.model.source != "random" else {}
    assert {key: p["defaultValue"] for key, p in parameters.items()} == expected
    assert all(p["description"] for p in parameters.values())

    outer = spec["root"]["dag"]["tasks"]
    assert {t["taskInfo"]["name"] for t in outer.values()} == {"how it ended", "pretrain"}
    inner = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    label = {key: task["taskInfo"]["name"] for key, task in inner.items()}
    parents = {
        label[key]: {
            role: label[a["taskOutputArtifact"]["producerTask"]]
            for role, a in task.get("inputs", {}).get("artifacts", {}).items()
            if "taskOutputArtifact" in a
        }
        for key, task in inner.items()
    }
    # Order comes from artifacts alone: no task waits for one that it reads nothing of.
    for key, task in inner.items():
        assert {label[d] for d in task.get("dependentTasks", [])} == set(parents[label[key]].values()), label[key]
    for name, phase in recipe.phases.items():
        above = "init" if phase.init == "init" else f"train {phase.init}"
        assert parents[f"train {name}"] == {"init": above, "mixture": f"mixture {name}", "tokens": "tokenize"}
        assert parents[f"evaluate {name}"]["model"] == f"train {name}"
    branches = {v for k, v in parents["merge"].items() if k.startswith("branch_")}
    assert branches == {f"train {b}" for b in recipe.merge.branches}
    assert parents["merge"]["base"] == f"train {recipe.merge.base}"
    judged = {v for k, v in parents["report"].items() if k.startswith("scores_")}
    assert judged == {f"evaluate {n}" for n in [*recipe.phases, "merge"]}
    taken_over = recipe.model.source != "random"
    assert {k for k, v in parents.items() if v.get("source") == "released model"} == (
        {"tokenizer", "init"} if taken_over else set()
    )
    assert len(inner) == 10 + 3 * len(recipe.phases) + 1 + taken_over
    assert not [k for k, t in inner.items() if t.get("cachingOptions", {}).get("enableCache") is not True]

    for executor in spec["deploymentSpec"]["executors"].values():
        if "importer" in executor:
            assert not executor["importer"].get("reimport")
            assert set(executor["importer"]["metadata"]) in ({"dvc", "root"}, {"source", "content"})


def test_another_process_compiles_the_same_bytes(tmp_path: Path):
    """KFP's own header differs from process to process; one compiled here, one there."""
    words = ["compile", "--params", str(REPO / "recipes" / "mmbert-base.yaml"), "--out"]
    assert main([*words, str(tmp_path / "here.yaml")]) == 0
    subprocess.run([sys.executable, "-m", "mmenc.cli", *words, str(tmp_path / "there.yaml")], cwd=REPO, check=True)
    assert (tmp_path / "here.yaml").read_bytes() == (tmp_path / "there.yaml").read_bytes()


def test_compile_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = str(REPO / "params.yaml")
    out = str(tmp_path / "p.yaml")
    assert main(["compile", "--params", recipe, "--out", out, "--image", "mmenc:latest"]) == 1
    assert "no fixed tag" in capsys.readouterr().err
    assert main(["compile", "--params", recipe, "--out", str(tmp_path / "p.txt")]) == 1
    assert ".yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_are_finite_numbers_without_the_tables_per_language():
    facts = {"loss": 1.5, "nan": float("nan"), "ok": True, "languages": {"eng_Latn": {"a": 1}}, "curve": [[1, 2.0], [3, 4.0]]}
    facts |= {"observed": {"deu_Latn": 0.5}}
    assert figures(facts) == {"loss": 1.5, "languages": 1, "observed": 1, "curve": 4.0}


def test_a_changed_tree_is_refused(finished: Path):
    from mmenc.kubeflow import _same_parent

    _same_parent("pretrain", finished / "artifacts/train/pretrain", "extend")
    _same_parent("init", finished / "artifacts/train/init", "pretrain")
    with pytest.raises(Refused, match="compile"):
        _same_parent("extend", finished / "artifacts/train/pretrain", "decay-all")


class Given(SimpleNamespace):
    """What a face gets of Kubeflow: no more than these attributes are used."""

    def __init__(self, path: Path):
        super().__init__(path=str(path), metadata={}, uri=str(path))


def test_a_step_fills_an_empty_output_and_keeps_its_state_where_it_is_told(finished, tmp_path, monkeypatch):
    recipe = send(load(finished / "params.yaml"))
    sections = as_kubeflow_sends({"languages": recipe["languages"], "phase": recipe["phase_extend"]})
    tokens = {"tokens": Given(finished / "artifacts/tokenize")}
    (tmp_path / "task" / "out").mkdir(parents=True)
    out, metrics = Given(tmp_path / "task" / "out"), Given(tmp_path / "task" / "metrics")
    monkeypatch.setenv("MMENC_STATE", str(tmp_path / "state"))
    run_step("mixture", 1, "extend", sections, tokens, out, metrics=metrics)
    made, expected = (Artifact.read(p).manifest for p in (Path(out.path), finished / "artifacts/mixture/extend"))
    assert (made.digest, made.content) == (expected.digest, expected.content)
    assert (out.metadata["digest"], out.metadata["content"], out.metadata["name"]) == (made.digest, made.content, "extend")
    assert metrics.metadata["tokens"] == json.loads(Path(metrics.path).read_text())["tokens"]
    assert (tmp_path / "state" / ".runs" / made.digest / "run.json").is_file()
    assert {p.name for p in (tmp_path / "task").iterdir()} == {"out", "metrics"}


def test_the_ui_gets_the_confusion_of_scripts(finished: Path, tmp_path: Path):
    from kfp import dsl

    from mmenc.kubeflow import _show

    made = finished / "artifacts/evaluate/merge"
    manifest = Artifact.read(made).manifest
    given = dsl.ClassificationMetrics(name="scripts", uri=str(tmp_path / "scripts"), metadata={})
    given.path = str(tmp_path / "scripts")
    _show(TABLE["evaluate"], made, manifest, None, None, given)
    names, matrix = manifest.facts["scripts"]["names"], manifest.facts["scripts"]["matrix"]
    shown = given.metadata["confusionMatrix"]
    assert [a["displayName"] for a in shown["annotationSpecs"]] == names
    assert [r["row"] for r in shown["rows"]] == matrix
    assert json.loads((tmp_path / "scripts").read_text())["matrix"] == matrix


def test_a_refusal_ends_with_its_sentence_and_leaves_nothing(finished, tmp_path, capsys):
    recipe = send(load(finished / "params.yaml"))
    sections = {"languages": recipe["languages"], "phase": recipe["phase_extend"]}
    tokens = {"tokens": Given(finished / "artifacts/tokenize")}
    for version, name, sentence in ((2, "extend", "has version 1"), (1, "exten", "no instance is called")):
        with pytest.raises(SystemExit) as stopped:
            run_step("mixture", version, name, sections, tokens, Given(tmp_path / "task" / "out"))
        assert stopped.value.code == 1
        assert sentence in capsys.readouterr().err
    assert not list((tmp_path / "task").iterdir())


def test_a_parent_that_was_changed_in_the_ui_is_refused_by_the_task(finished, tmp_path, capsys):
    recipe = send(load(finished / "params.yaml"))
    sections = {"seed": 21, "store": "", "phase": recipe["phase_decay_all"] | {"init": "pretrain"}}
    sections |= {key: recipe[key] for key in ("model", "tokenizer", "languages", "compute")}
    roles = {"tokens": "tokenize", "mixture": "mixture/decay-all", "init": "train/extend"}
    inputs = {role: Given(finished / "artifacts" / folder) for role, folder in roles.items()}
    with pytest.raises(SystemExit):
        run_step("train", TABLE["train"].version, "decay-all", sections, inputs, Given(tmp_path / "task" / "out"))
    assert "phases.decay-all.init: is pretrain, the compiled graph brings extend" in capsys.readouterr().err


def test_the_store_is_told_to_every_step(finished, tmp_path):
    """A parameter of its own: steps without `compute` give their large files to it too."""
    recipe = send(load(finished / "params.yaml"))
    sections = {"ingest": recipe["ingest"], "store": str(tmp_path / "store")}
    out = Given(tmp_path / "task" / "out")
    run_step("ingest", TABLE["ingest"].version, "", sections, {"data": Given(finished / "data")}, out)
    made, expected = (Artifact.read(p).manifest for p in (Path(out.path), finished / "artifacts/ingest"))
    assert (made.digest, made.content) == (expected.digest, expected.content)
    assert made.external
    assert not expected.external


@pytest.fixture(scope="module")
def ran(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's pipeline, compiled and run task by task in processes of their own."""
    from kfp import components, local

    place = tmp_path_factory.mktemp("kubeflow")
    out = place / "pipeline.yaml"
    assert main(["compile", "--params", str(finished / "params.yaml"), "--out", str(out)]) == 0
    root = place / "root"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a laptop cannot honour: limits, images, display names
        patch.delenv("MMENC_STATE", raising=False)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        components.load_component_from_file(str(out))(data_uri=str(finished / "data"))
    return root


def test_subprocess_runner_gives_the_digests_and_contents_of_dvc(ran: Path, finished: Path):
    assert hashes(made(ran)) == contents(finished)


def test_what_the_ui_shows_is_there_and_nothing_is_left_over(ran: Path, finished: Path):
    shown = {p.parent.name: p.read_text(encoding="utf-8") for p in ran.rglob("page")}
    assert all(shown.values())
    assert "<html" in shown["validate"]
    assert "<html" in shown["report"]
    # Records of the runs travel with the artifacts, so the report on a cluster has its times.
    assert "were not recorded" not in shown["report"]
    assert shown["release"] == (finished / "artifacts/release/README.md").read_text(encoding="utf-8")
    assert "SUCCEEDED" in shown["end"]
    assert not list(ran.rglob(".mmenc.*"))
    numbers = [json.loads(p.read_text()) for p in ran.rglob("metrics")]
    assert len(numbers) == 3 * len(tiny_recipe()["phases"]) + 10
    assert all(numbers)
    assert all(len(p.read_bytes()) < 400_000 for p in ran.rglob("page") if p.parent.name not in ("report", "validate"))
    for step in ("ingest", "clean", "tokenizer", "tokenize"):
        assert "zul_Latn" in shown[step], step
    asked = [json.loads(p.read_text()) for p in ran.rglob("scripts")]
    assert len(asked) == len(tiny_recipe()["phases"]) + 1
    assert all(found["names"][0] == "Latn" and {"Hebr", "Grek"} < set(found["names"]) for found in asked)
    assert not [p for p in ran.rglob("*") if re.search(r"\.(runs|resume)$", p.name)]
