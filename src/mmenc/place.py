"""Where a task runs: the resources of one task of a compiled graph, from `compute.cluster` and the plan.

Decision: levels override each other key by key (labels add up), so that a recipe says only what differs; a time-out of
training follows from the planned hours, because a figure written into the recipe would be wrong after the next change.
"""

from __future__ import annotations

import math
from typing import Any

from mmenc.cluster import Resources
from mmenc.costs import phase_costs
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.recipe import Recipe
from mmenc.steps import TABLE

PLACED = ("node_selector", "tolerations", "labels")
SMALL: dict[str, dict[str, Any]] = {
    "end": {"cpu": 0.5, "memory_gb": 1.0, "retries": 0},
    "compare": {"cpu": 1.0, "memory_gb": 2.0},
    "launcher": {"cpu": 1.0, "memory_gb": 8.0},
}
"""Tasks that read a page of figures, or carry a checkpoint from the store into the artifact: of `default` they take only where
pods may run."""
START_HOURS = 1.0
"""Beside the planned hours: for pulling the image, bringing the data, held-out losses."""


def resources(recipe: Recipe, task: str, name: str = "") -> Resources:
    """What a task gets: schema, `default`, `STEP`, `STEP NAME`, later ones first."""
    said = {key: level.model_dump() for key, level in recipe.compute.cluster.resources.items()}
    default = said.get("default", {})
    if task in SMALL:
        default = {k: v for k, v in default.items() if k in PLACED} | SMALL[task]
    found: dict[str, Any] = {}
    if task == "launcher":  # what fails is what it launches
        kept = ("retries", "backoff_seconds", "backoff_factor")
        train = said.get("default", {}) | said.get("train", {}) | said.get(f"train {name}", {})
        default |= {k: v for k, v in train.items() if k in kept}
    for level in (default, said.get(task, {}), said.get(f"{task} {name}", {})):
        labels = found.get("labels", {}) | level.get("labels", {})
        found |= level | {"labels": labels}
    step = TABLE.get(task)
    tunes = task == "evaluate" and recipe.evaluate.suites != ["intrinsic"]  # fine-tuning wants what training has
    if step and (step.image == "gpu" or tunes) and recipe.compute.device == "cuda" and not found.get("accelerators"):
        found["accelerators"] = recipe.compute.accelerators
    found["cpu"] = found.get("cpu") or float(recipe.compute.threads)
    return Resources.model_validate(found)


def timeout_seconds(recipe: Recipe, task: str, name: str, given: Resources) -> int:
    """Seconds that one attempt may take; 0: any."""
    if task == "train" and given.timeout_times_plan:
        parameters = parameter_counts(encoder_config(recipe))["parameters"]
        devices = max(1, given.accelerators) * recipe.compute.nodes
        hours: float = phase_costs(recipe, recipe.phases[name], parameters)["gpu_hours"] / devices
        return math.ceil((hours * given.timeout_times_plan + START_HOURS) * 3600)
    return math.ceil(given.timeout_hours * 3600)


def quantity(gigabytes: float) -> str:
    """A size as Kubernetes writes it; Kubeflow takes whole numbers only."""
    return f"{gigabytes:.0f}G" if float(gigabytes).is_integer() else f"{math.ceil(1000 * gigabytes)}M"
