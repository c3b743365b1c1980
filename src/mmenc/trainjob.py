"""The TrainJob of a phase: an object of Kubeflow Trainer's API 2.3 (`runtimePatches`), from `compute` and `compute.cluster`.

Decisions: what a recipe says of the cluster is compiled into a template, which reaches the launcher's pod as an annotation, so
that what `mmenc trainjob` shows is what runs; the launcher adds name, digest and store. The object is checked against the models
of `kubeflow-trainer-api` in both directions, because they drop an unknown field without a word. Pods start together through
Kueue's queue label on the job, or through a runtime with a pod group, which Trainer keeps in runtimes and not in jobs.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mmenc import place
from mmenc.artifact import Json, sha256_json
from mmenc.cluster import STATE, Cluster, Resources
from mmenc.errors import Refused
from mmenc.recipe import Recipe

API = "trainer.kubeflow.org/v1alpha1"
DIGEST, TEMPLATE, RESTARTS = "mmenc/digest", "mmenc/template", "mmenc/restarts"
"""Annotations: what the job trains (a label is a letter too short for a sha256), the hash of its spec, and
`compute.cluster.trainer.restarts` for the launcher."""
MANAGER = "mmenc/launcher"
NODE = "node"
"""Name of the replicated job and of its container, as Trainer's torch plugin wants them."""
KUEUE = "kueue.x-k8s.io/"
SHARED_MEMORY, STATE_FOLDER = "/dev/shm", "/mnt/mmenc-state"  # noqa: S108 (a mount in a pod)


def template(recipe: Recipe, name: str, image: str) -> Json:
    """The TrainJob of a phase without what only a launcher knows: name, digest, store, service account."""
    cluster, found = recipe.compute.cluster, place.resources(recipe, "train", name)
    labels = cluster.labels | found.labels
    spec: Json = {
        "runtimeRef": _runtime_ref(recipe),
        "trainer": {
            "image": image,
            "command": ["python", "-m", "mmenc.train.node"],
            "numNodes": recipe.compute.nodes,
            "numProcPerNode": found.accelerators or recipe.compute.processes,
            "env": _environment(cluster),
            "resourcesPerNode": {kind: _amounts(found) for kind in ("limits", "requests")},
        },
        "runtimePatches": [_patch(cluster, found, {k: v for k, v in labels.items() if not k.startswith(KUEUE)})],
    }
    if seconds := place.timeout_seconds(recipe, "train", name, found):
        spec["activeDeadlineSeconds"] = seconds
    # Kueue takes the job as a whole: a queue's name on its pods as well would make them wait a second time.
    metadata = {"name": _slug(name), "labels": labels, "annotations": {RESTARTS: str(cluster.trainer.restarts)}}
    return {"apiVersion": API, "kind": "TrainJob", "metadata": metadata, "spec": spec}


def finish(made: Json, name: str, digest: str, store: str, account: str = "") -> Json:
    """The TrainJob that a launcher creates."""
    job: Json = json.loads(json.dumps(made))
    job["metadata"] |= {"name": f"{_slug(name)}-{digest[:12]}"}
    job["spec"]["trainer"]["args"] = [store, digest]
    if account:  # the store's keys may hang on it
        _pod(job)["serviceAccountName"] = account
    job["metadata"]["annotations"] |= {DIGEST: digest, TEMPLATE: sha256_json(job["spec"])}
    return job


def runtime(recipe: Recipe) -> Json:
    """A runtime of the namespace whose pods start together or not at all, and which fails at once when a pod does."""
    trainer = recipe.compute.cluster.trainer
    if not trainer.gang:
        raise Refused(
            "compute.cluster.trainer.gang: is empty: jobs use the cluster's own runtime; expected coscheduling or volcano"
        )
    pods: Json = {"coscheduling": {"scheduleTimeoutSeconds": trainer.gang_seconds}, "volcano": {}}
    container = {"name": NODE, "image": "mmenc-gpu:REVISION"}  # that of the job takes its place
    job: Json = {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    ancestor = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    return {
        "apiVersion": API,
        "kind": "TrainingRuntime",
        "metadata": {"name": f"mmenc-{trainer.gang}", "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": recipe.compute.nodes, "torch": {}},
            "podGroupPolicy": {trainer.gang: pods[trainer.gang]},
            "template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"metadata": ancestor, "spec": job}}]}},
        },
    }


def _slug(name: str) -> str:
    """A phase's name in that of its job: letters, digits and dashes, short enough for the pods' host names."""
    return f"mmenc-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')[:20].strip('-')}"


def _runtime_ref(recipe: Recipe) -> Json:
    trainer = recipe.compute.cluster.trainer
    named = {"name": f"mmenc-{trainer.gang}", "kind": "TrainingRuntime"} if trainer.gang else {}
    return {"apiGroup": API.partition("/")[0], "name": trainer.runtime, "kind": trainer.runtime_kind, **named}


def _amounts(found: Resources) -> Json:
    amounts = {"cpu": f"{found.cpu:g}", "memory": place.quantity(found.memory_gb)}
    return amounts | ({found.accelerator_type: str(found.accelerators)} if found.accelerators else {})


def _environment(cluster: Cluster) -> list[Json]:
    found: list[Json] = [{"name": variable, "value": value} for variable, value in cluster.env.items()]
    for secret, keys in cluster.secrets.items():
        for key, variable in keys.items():
            found.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return found + ([{"name": STATE, "value": STATE_FOLDER}] if cluster.state_claim else [])


def _patch(cluster: Cluster, found: Resources, labels: dict[str, str]) -> Json:
    """What the job changes in its runtime: where pods run, what they mount, how long they may take to end."""
    pod: Json = {"terminationGracePeriodSeconds": cluster.trainer.grace_seconds}
    if found.node_selector:
        pod["nodeSelector"] = dict(found.node_selector)
    if found.tolerations:
        pod["tolerations"] = [_toleration(taint.model_dump()) for taint in found.tolerations]
    if cluster.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    volumes: list[Json] = []
    if found.shared_memory_gb:
        memory = {"medium": "Memory", "sizeLimit": place.quantity(found.shared_memory_gb)}
        volumes.append({"name": "shm", "at": SHARED_MEMORY, "emptyDir": memory})
    if cluster.state_claim:
        volumes.append({"name": "state", "at": STATE_FOLDER, "persistentVolumeClaim": {"claimName": cluster.state_claim}})
    if volumes:
        pod["volumes"] = [{k: v for k, v in volume.items() if k != "at"} for volume in volumes]
        mounts = [{"name": volume["name"], "mountPath": volume["at"]} for volume in volumes]
        pod["containers"] = [{"name": NODE, "volumeMounts": mounts}]
    metadata = {k: v for k, v in {"labels": labels, "annotations": dict(cluster.annotations)}.items() if v}
    inner = {"spec": pod} | ({"metadata": metadata} if metadata else {})
    job = {"name": NODE, "template": {"spec": {"template": inner}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}


def _toleration(taint: Json) -> Json:
    names = {"key": "key", "operator": "operator", "value": "value", "effect": "effect", "seconds": "tolerationSeconds"}
    return {names[key]: value for key, value in taint.items() if value}


def _pod(job: Json) -> Json:
    """The patch of the pods' spec in a job."""
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    found: Json = replicated["template"]["spec"]["template"]["spec"]
    return found


def validated(plain: Json) -> Json:
    """The object, if the API's models know every field of it and keep its value; Refused names the first that they do not."""
    try:
        from kubeflow_trainer_api import models
    except ModuleNotFoundError:
        raise Refused("kubeflow-trainer-api is not installed; `pip install 'mmenc[trainer]'` brings it") from None
    try:
        kept = getattr(models, f"TrainerV1alpha1{plain['kind']}").from_dict(plain).to_dict()
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise Refused(f"{plain.get('kind', 'object')}: is none of {API} ({' '.join(str(error).split())[:300]})") from None
    if at := _lost(plain, kept):
        raise Refused(f"{plain['kind']}: {at}: the API {API} knows no such field, or not this value")
    return plain


def _lost(given: Any, kept: Any, at: str = "") -> str:
    """The first path of `given` that `kept` has not, or has with another value."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            here = f"{at}.{key}" if at else str(key)
            if found := here if key not in kept and value not in ({}, []) else _lost(value, kept.get(key, value), here):
                return found
        return ""
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return next(filter(None, (_lost(a, b, f"{at}.{i}") for i, (a, b) in enumerate(zip(given, kept, strict=True)))), "")
    return "" if given == kept else at
