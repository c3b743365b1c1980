"""`compute.cluster`: every task of a compiled graph gets what the recipe says, in fields that Kubeflow knows."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmenc import place
from mmenc.cluster import Resources
from mmenc.costs import phase_costs
from mmenc.errors import Refused
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.plan import counts_for, make_plan
from mmenc.recipe import Recipe, load, parse
from tests.pipeline import REPO, tiny_recipe

json_format = pytest.importorskip("google.protobuf.json_format")
pytest.importorskip("kfp.kubernetes")
RECIPES = [REPO / "params.yaml", *sorted((REPO / "recipes").glob("*.yaml"))]
CPU, GPU = "registry/cpu:abc", "registry/gpu:abc"
KUEUE = "kueue.x-k8s.io/queue-name"
EVERY_KEY = {
    "resources": {
        "default": {
            "cpu": 1.5,
            "memory_gb": 2.5,
            "node_selector": {"pool": "cpu"},
            "tolerations": [{"key": "team", "value": "nlp", "effect": "NoSchedule"}],
            "labels": {"team": "nlp"},
            "retries": 1,
            "backoff_seconds": 30,
            "backoff_factor": 3,
            "timeout_hours": 12,
        },
        "train": {
            "cpu": 64,
            "memory_gb": 512,
            "accelerators": 4,
            "accelerator_type": "amd.com/gpu",
            "shared_memory_gb": 32,
            "node_selector": {"pool": "gpu", "example.com/zone": "b"},
            "tolerations": [{"operator": "Exists", "effect": "NoExecute", "seconds": 600}],
            "labels": {KUEUE: "gpus"},
            "retries": 7,
            "timeout_times_plan": 3,
        },
        "train decay-all": {"cpu": 32, "retries": 0},
        "evaluate": {"accelerators": 1},
        "end": {"cpu": 0.2},
    },
    "secrets": {"store-keys": {"access": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}},
    "env": {"AWS_ENDPOINT_URL": "http://store.example:8333"},
    "labels": {KUEUE: "all", "kueue.x-k8s.io/priority-class": "low"},
    "annotations": {"example.com/note": "any text, with spaces"},
    "image_pull_secrets": ["registry-login"],
    "image_pull_policy": "IfNotPresent",
    "state_claim": "mmenc-state",
}


def every_key() -> Recipe:
    recipe = tiny_recipe()
    recipe["compute"] |= {"device": "cuda", "accelerators": 8, "cluster": copy.deepcopy(EVERY_KEY)}
    return parse(recipe)


def compiled(recipe: Recipe, out: Path, pipeline: str = "pretrain", **options: Any) -> dict[str, dict[str, Any]]:
    """Per task's display name: its container, what Kubernetes is told, and its retries; both documents parsed strictly."""
    from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
    from kfp.pipeline_spec import pipeline_spec_pb2 as specs

    write = importlib.import_module(f"pipelines.{pipeline}").write
    write(recipe, out, image=CPU, gpu_image=GPU, data_hash="md5:0", **options)
    first = out.read_bytes()
    write(recipe, out, image=CPU, gpu_image=GPU, data_hash="md5:0", **options)
    assert out.read_bytes() == first
    spec, *platforms = yaml.safe_load_all(first)
    json_format.ParseDict(spec, specs.PipelineSpec(), ignore_unknown_fields=False)
    told: dict[str, Any] = {}
    for platform in platforms:
        json_format.ParseDict(platform, specs.PlatformSpec(), ignore_unknown_fields=False)
        told |= platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for config in told.values():
        json_format.ParseDict(config, kubernetes.KubernetesExecutorConfig(), ignore_unknown_fields=False)
    found = {}
    for dag in (spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)):
        for task in dag["tasks"].values():
            executor = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor and "container" in spec["deploymentSpec"]["executors"][executor]:
                container = spec["deploymentSpec"]["executors"][executor]["container"]
                retry = task.get("retryPolicy", {})
                found[task["taskInfo"]["name"]] = {**container, "told": told.get(executor, {}), "retry": retry}
    return found


def wanted(recipe: Recipe, label: str) -> dict[str, Any]:
    """What the recipe says of a task, worked out from its plain data."""
    said = recipe.value("compute")["cluster"]["resources"]
    step = {"how": "end", "side": "compare"}.get(label.split()[0], label.split()[0])
    small = {"end": {"cpu": 0.5, "memory_gb": 1.0, "retries": 0}, "compare": {"cpu": 1.0, "memory_gb": 2.0}}.get(step, {})
    default = {k: v for k, v in said.get("default", {}).items() if not small or k in ("node_selector", "tolerations", "labels")}
    levels = [default, small, said.get(step, {}), said.get(label, {})]
    merged = {k: v for level in levels for k, v in level.items()}
    merged["labels"] = {k: v for level in levels for k, v in level.get("labels", {}).items()}
    if step == "train" and recipe.compute.device == "cuda":
        merged.setdefault("accelerators", recipe.compute.accelerators)
    merged.setdefault("cpu", recipe.compute.threads)
    return {k: merged.get(k, getattr(Resources(), k)) for k in Resources.model_fields}


def gigabytes(text: str) -> float:
    return float(text[:-1]) / (1 if text.endswith("G") else 1000)


def examine(recipe: Recipe, tasks: dict[str, dict[str, Any]], hours: dict[str, float]) -> None:
    cluster = recipe.compute.cluster
    for label, task in tasks.items():
        want, told, resources = wanted(recipe, label), task["told"], task["resources"]
        assert task["image"] == (GPU if want["accelerators"] else CPU), label
        for kind in ("Limit", "Request"):
            assert float(resources[f"resourceCpu{kind}"]) == want["cpu"], label
            assert gigabytes(resources[f"resourceMemory{kind}"]) == want["memory_gb"], label
        gpu = {"resourceCount": str(want["accelerators"]), "resourceType": want["accelerator_type"]}
        assert ({**gpu}.items() <= resources["accelerator"].items()) if want["accelerators"] else "accelerator" not in resources
        assert task["retry"].get("maxRetryCount", 0) == want["retries"], label
        if want["retries"]:
            assert task["retry"]["backoffDuration"] == f"{want['backoff_seconds']}s"
            assert task["retry"]["backoffFactor"] == want["backoff_factor"]
        shared = told.get("emptyDirMounts", [])
        size = [(m["mountPath"], m["medium"], gigabytes(m["sizeLimit"])) for m in shared]
        assert size == ([("/dev/shm", "Memory", want["shared_memory_gb"])] if want["shared_memory_gb"] else []), label
        limit = want["timeout_hours"]
        if label.startswith("train ") and want["timeout_times_plan"]:
            limit = 1 + want["timeout_times_plan"] * hours[label.removeprefix("train ")] / max(1, want["accelerators"])
        assert int(told.get("activeDeadlineSeconds", 0)) == pytest.approx(3600 * limit, abs=1), label
        assert told.get("nodeSelector", {}).get("labels", {}) == want["node_selector"], label
        assert len(told.get("tolerations", [])) == len(want["tolerations"]), label
        assert told.get("podMetadata", {}).get("labels", {}) == {**cluster.labels, **want["labels"]}, label
        annotations = dict(told.get("podMetadata", {}).get("annotations", {}))
        is_step = label not in ("how it ended", "side by side")
        if is_step:  # not by its environment, which newer versions of Kubeflow count into the cache key
            assert told["fieldPathAsEnv"] == [{"name": "MMENC_COMPUTE", "fieldPath": "metadata.annotations['mmenc/compute']"}]
            assert json.loads(annotations.pop("mmenc/compute"))["price_per_hour"] == recipe.compute.price_per_hour
        assert annotations == cluster.annotations, label
        found = {s["secretName"]: {k["secretKey"]: k["envVar"] for k in s["keyToEnv"]} for s in told.get("secretAsEnv", [])}
        assert found == cluster.secrets, label
        assert not any(s.get("optional") for s in told.get("secretAsEnv", [])), label
        assert [s["secretName"] for s in told.get("imagePullSecret", [])] == cluster.image_pull_secrets, label
        assert told.get("imagePullPolicy", "") == cluster.image_pull_policy, label
        environment = {e["name"]: e["value"] for e in task.get("env", [])}
        mounts = {m["mountPath"]: m["constant"] for m in told.get("pvcMount", [])}
        assert list(mounts.values()) == ([cluster.state_claim] if cluster.state_claim else []), label
        assert environment.pop("MMENC_STATE", None) == (next(iter(mounts), None)), label
        assert environment == cluster.env, label


@pytest.mark.parametrize("path", [*RECIPES, None], ids=lambda p: p.name if p else "every key")
def test_every_task_gets_what_the_recipe_says(path: Path | None, tmp_path: Path):
    recipe = load(path) if path else every_key()
    parameters = parameter_counts(encoder_config(recipe))["parameters"]
    hours = {name: phase_costs(recipe, phase, parameters)["gpu_hours"] for name, phase in recipe.phases.items()}
    if path and recipe.compute.counts:
        planned = make_plan(recipe, counts_for(recipe, path))["phases"]
        assert {name: row["gpu_hours"] for name, row in planned.items()} == pytest.approx(hours)
    tasks = compiled(recipe, tmp_path / "pipeline.yaml")
    assert len(tasks) == 10 + 3 * len(recipe.phases) + 1
    examine(recipe, tasks, hours)
    compared = compiled(
        recipe, tmp_path / "evaluate.yaml", "evaluate", models={"one": "s3://models/one", "two": "s3://models/two"}
    )
    assert len(compared) == 3 + 2 * 4 + 2
    examine(recipe, compared, hours)


def test_the_recipe_with_every_key_says_it_in_kubernetes_words(tmp_path: Path):
    """The same once more against figures written by hand."""
    tasks = compiled(every_key(), tmp_path / "pipeline.yaml")
    clean, train, last, end = (tasks[k] for k in ("clean", "train extend", "train decay-all", "how it ended"))
    assert clean["resources"]["resourceCpuLimit"] == "1.5"
    assert clean["resources"]["resourceMemoryRequest"] == "2500M"
    assert clean["told"]["activeDeadlineSeconds"] == "43200"
    assert clean["told"]["tolerations"] == [{"key": "team", "operator": "Equal", "value": "nlp", "effect": "NoSchedule"}]
    assert clean["told"]["podMetadata"]["labels"] == {KUEUE: "all", "kueue.x-k8s.io/priority-class": "low", "team": "nlp"}
    accelerator = train["resources"]["accelerator"]
    assert (train["image"], accelerator["resourceCount"], accelerator["resourceType"]) == (GPU, "4", "amd.com/gpu")
    assert train["told"]["tolerations"] == [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": "600"}]
    assert train["told"]["nodeSelector"]["labels"] == {"pool": "gpu", "example.com/zone": "b"}
    assert train["told"]["podMetadata"]["labels"][KUEUE] == "gpus"
    assert train["retry"]["maxRetryCount"] == 7
    assert (last["resources"]["resourceCpuLimit"], last["resources"]["resourceMemoryLimit"], last["retry"]) == ("32", "512G", {})
    assert tasks["evaluate merge"]["image"] == GPU
    assert (end["resources"]["resourceCpuLimit"], end["resources"]["resourceMemoryLimit"], end["retry"]) == ("0.2", "1G", {})
    assert "activeDeadlineSeconds" not in end["told"]


def test_a_recipe_survives_being_written_and_read_with_its_levels():
    recipe = every_key()
    again = parse(recipe.model_dump(mode="json", by_alias=True))
    assert again == recipe
    assert again.value("compute")["cluster"]["resources"] == recipe.value("compute")["cluster"]["resources"]
    assert place.resources(again, "train", "decay-all").memory_gb == 512


def test_cluster_and_price_are_no_part_of_a_result():
    """Digests go by the table's parameters, which never name `compute`; the defaults ask for nothing that a cluster may lack."""
    from mmenc.steps import TABLE

    assert not [step.name for step in TABLE.values() if any(p.startswith("compute") for p in step.params)]
    assert load(REPO / "params.yaml").value("compute")["cluster"] == parse(tiny_recipe()).value("compute")["cluster"]


REFUSED = {
    "step": ({"resources": {"trian": {}}}, r"resources\.trian: no task is called 'trian'; did you mean 'train'\?"),
    "instance": ({"resources": {"train decay-al": {}}}, "did you mean 'train decay-all'"),
    "no instances": ({"resources": {"clean extend": {}}}, "no task is called 'clean extend'"),
    "key": ({"resources": {"train": {"memory": 4}}}, r"resources\.train: unknown key 'memory'; did you mean 'memory_gb'"),
    "null": ({"resources": {"train": {"cpu": None}}}, r"resources\.train\.cpu is None"),
    "negative": ({"resources": {"train": {"retries": -1}}}, "greater than or equal to 0"),
    "cpu device": ({"resources": {"train": {"accelerators": 8}}}, "is 8, but compute.device is cpu; set it to cuda"),
    "shm": ({"resources": {"train": {"memory_gb": 4, "shared_memory_gb": 8}}}, "8 GB is more than the memory_gb 4"),
    "shm elsewhere": (
        {"resources": {"train extend": {"shared_memory_gb": 8}, "train": {"memory_gb": 4}}},
        "than the memory_gb 4",
    ),
    "shm of the default": ({"resources": {"train": {"shared_memory_gb": 9}}}, "9 GB is more than the memory_gb 8"),
    "toleration": ({"resources": {"train": {"tolerations": [{"operator": "Exists", "value": "x"}]}}}, "exists takes no value"),
    "empty toleration": ({"resources": {"train": {"tolerations": [{"effect": "NoSchedule"}]}}}, "equal needs a key"),
    "label": ({"labels": {KUEUE: "not a value"}}, "labels.*should match pattern"),
    "secret": ({"secrets": {"Store": {"a": "A"}}}, "secrets.*should match pattern"),
    "variable": ({"secrets": {"store": {"a": "1A"}}}, "should match pattern"),
    "twice": (
        {"env": {"A": "x"}, "secrets": {"store": {"a": "A"}}},
        r"secrets\.store\.a: A is set by compute\.cluster\.env already",
    ),
    "own": ({"env": {"MMENC_STATE": "x"}}, r"env\.MMENC_STATE: is set by compute\.cluster\.state_claim; leave it out"),
    "policy": ({"image_pull_policy": "always"}, "image_pull_policy is 'always'"),
    "env number": ({"env": {"PORT": 8333}}, r"env\.PORT is 8333; input should be a valid string"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nonsense_is_refused_in_one_sentence(name: str):
    cluster, sentence = REFUSED[name]
    recipe = tiny_recipe()
    recipe["compute"]["cluster"] = cluster
    with pytest.raises(Refused, match=sentence) as refused:
        parse(recipe)
    assert "\n" not in str(refused.value)
    assert "compute.cluster" in str(refused.value)
