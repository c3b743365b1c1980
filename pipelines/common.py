"""What the graphs share: tasks placed on the cluster, imported data and models, and a compiled file that is the same each time.

Decisions: order comes from artifacts alone; sections of the recipe are parameters, to be seen and changed in the UI;
images, resources and the shape of a graph are compiled in. Nothing of a particular cluster stands in code.
"""

import inspect
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components import data, end, results, shares, training
from mmenc import place
from mmenc.cluster import ACCOUNT, COMPUTE, SHARE, STATE, TRAINJOB
from mmenc.errors import Refused
from mmenc.kubeflow import surroundings
from mmenc.recipe import Recipe
from mmenc.share import SPLIT
from mmenc.steps import TABLE
from mmenc.store import is_remote
from mmenc.trainjob import template

FACES = {name: getattr(module, name) for module in (data, training, results) for name in TABLE if hasattr(module, name)}
FACES |= {"end": end.end, "compare": results.compare}
HELPERS = {name: getattr(shares, f"{name}_share") for name in SPLIT}
MOST = 8
"""Optional inputs that the faces of merge, report and compare have; more are refused when compiling."""
SHARED_MEMORY, STATE_FOLDER = "/dev/shm", "/mnt/mmenc-state"  # noqa: S108 (a mount in a pod)
NOTE, JOB_NOTE, SHARE_NOTE = "mmenc/compute", "mmenc/trainjob", "mmenc/share"
"""Annotations of a pod: they tell its step what running costs, a launcher what TrainJob to make, a step that others help."""
TEXTS = {
    "data_uri": "Raw text: a folder with one sub-folder per language, as the pods see it, or a pointer file (`mmenc point`).",
    "source_uri": "The released model to start from: a folder or a prefix of an object store, with its config.json.",
    "seed": "Seed of everything random.",
    "store": "Folder or s3:// prefix that owns large files and resume state, as the pods see it; empty: the artifacts do.",
    "compute": "What running reads of section `compute`; the rest of it is compiled in.",
}
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Site:
    """What a compiled file takes from outside of the recipe."""

    image: str
    gpu_image: str
    data_hash: str = ""
    """DVC's hash of the raw data, part of the cache key."""
    data_uri: str = ""
    """Where pods find the raw data, or a pointer to it; empty: at the recipe's `ingest.root`."""

    def __post_init__(self) -> None:
        for used in (self.image, self.gpu_image):
            if "@" not in used and (":" not in used.rsplit("/", 1)[-1] or used.endswith(":latest")):
                raise Refused(f"image {used}: has no fixed tag; tag it by git revision, Kubeflow's cache goes by the tag")


def _pods(task: dsl.PipelineTask, recipe: Recipe) -> None:
    """What every pod gets: secrets, environment, labels, how images are pulled, the volume for state."""
    cluster = recipe.compute.cluster
    for secret, keys in cluster.secrets.items():
        kubernetes.use_secret_as_env(task, secret, keys)
    for variable, value in cluster.env.items():
        task.set_env_variable(variable, value)
    for key, text in cluster.annotations.items():
        kubernetes.add_pod_annotation(task, key, text)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.image_pull_secrets)
    if cluster.image_pull_policy:
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.state_claim:
        kubernetes.mount_pvc(task, cluster.state_claim, STATE_FOLDER)
        task.set_env_variable(STATE, STATE_FOLDER)


@dataclass(frozen=True)
class Graph:
    """A graph in the making: `given` are the pipeline's parameters."""

    recipe: Recipe
    site: Site
    given: Values

    def place(self, task: dsl.PipelineTask, step: str, name: str = "", label: str = "") -> dsl.PipelineTask:
        """Give a task its name in the UI, its image and its share of the cluster."""
        launches = step == "train" and self.recipe.compute.nodes > 1
        found = place.resources(self.recipe, "launcher" if launches else step, name)
        task.set_display_name(label or f"{step} {name}".strip())
        task.set_container_image(self.site.gpu_image if found.accelerators else self.site.image)
        cpu, memory = f"{found.cpu:g}", place.quantity(found.memory_gb)
        task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
        if found.accelerators:
            task.set_accelerator_type(found.accelerator_type).set_accelerator_limit(found.accelerators)
        if found.retries:
            task.set_retry(found.retries, f"{found.backoff_seconds}s", found.backoff_factor)
        if found.shared_memory_gb:
            size = place.quantity(found.shared_memory_gb)
            kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit=size)
        if launches:  # its time-out is its job's, which may wait in a queue before it begins
            self._launcher(task, name)
        elif seconds := place.timeout_seconds(self.recipe, step, name, found):
            kubernetes.set_timeout(task, seconds)
        for key, value in found.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for taint in found.tolerations:
            said = {key: value or None for key, value in taint.model_dump(exclude={"seconds"}).items()}
            kubernetes.add_toleration(task, **said, toleration_seconds=taint.seconds or None)
        for key, value in (self.recipe.compute.cluster.labels | found.labels).items():
            kubernetes.add_pod_label(task, key, value)
        _pods(task, self.recipe)
        if step in TABLE:
            # For the run's record. By way of an annotation: arguments and plain variables are part of Kubeflow's cache key,
            # and a change of price must not train again.
            kubernetes.add_pod_annotation(task, NOTE, surroundings(self.recipe))
            kubernetes.use_field_path_as_env(task, COMPUTE, f"metadata.annotations['{NOTE}']")
        return task

    def _launcher(self, task: dsl.PipelineTask, name: str) -> None:
        """Tell a task what TrainJob to make: by an annotation, as what running costs, since other nodes make no other result."""
        made = template(self.recipe, name, self.site.gpu_image if self.recipe.compute.device == "cuda" else self.site.image)
        kubernetes.add_pod_annotation(task, JOB_NOTE, json.dumps(made, sort_keys=True))
        kubernetes.use_field_path_as_env(task, TRAINJOB, f"metadata.annotations['{JOB_NOTE}']")
        kubernetes.use_field_path_as_env(task, ACCOUNT, "spec.serviceAccountName")

    def run(self, step: str, name: str = "", label: str = "", config: Values | None = None, **more: Any) -> Any:
        """Add a step's task; its sections come from `config`, else from the parameters of the same name. Returns its artifact."""
        asked = FACES[step].component_spec.inputs
        own = {**self.given, **(config or {})}
        more |= {key: own[key.removesuffix("_config")] for key in asked if key in ("seed", "store") or key.endswith("_config")}
        if TABLE[step].instances:
            more["name"] = name
        task = self.place(FACES[step](**more), step, name, label)
        if step in HELPERS and self.recipe.compute.cluster.split > 1:
            self._split(task, step, more)
        return task.outputs["out"]

    def _split(self, task: dsl.PipelineTask, step: str, given: Values) -> None:
        """Let others help a step: none waits for another, so they are siblings, with equal inputs."""
        count = self.recipe.compute.cluster.split
        # By an annotation, as what running costs: a step whose result is there must not run again because others would help.
        kubernetes.add_pod_annotation(task, SHARE_NOTE, f"1/{count}")
        kubernetes.use_field_path_as_env(task, SHARE, f"metadata.annotations['{SHARE_NOTE}']")
        for number in range(2, count + 1):
            self.place(HELPERS[step](**given, share=f"{number}/{count}"), step, label=f"{step} share {number}/{count}")

    def raw(self) -> Any:
        """The raw data, imported as a pointer; what KFP knows of its version is in the metadata."""
        metadata = {"dvc": self.site.data_hash or "unknown", "root": self.recipe.ingest.root}
        # An equal address with equal metadata is the same data, so that later steps stay cached: no import anew.
        task = dsl.importer(self.given["data_uri"], dsl.Dataset, reimport=False, metadata=metadata)
        return task.set_display_name("data").output

    def released(self, uri: Any, named: str, label: str) -> Any:
        """A released model as an artifact; `named` is the recipe's own word for it, read here if it is a folder."""
        manifest = Path(named) / "manifest.json"
        known = json.loads(manifest.read_text(encoding="utf-8")).get("content", "") if manifest.is_file() else ""
        metadata = {"source": named, "content": known or "unknown"}
        return dsl.importer(uri, dsl.Model, reimport=False, metadata=metadata).set_display_name(label).output


def source_of(recipe: Recipe) -> str:
    """The released model that a recipe starts from; empty if it trains everything itself."""
    named = {recipe.tokenizer.source} - {"train"} | {recipe.model.source} - {"random"}
    if len(named) > 1:
        both = f"tokenizer.source is {recipe.tokenizer.source!r}, model.source {recipe.model.source!r}"
        raise Refused(f"{both}; a pipeline brings one released model, expected the same in both")
    return next(iter(named), "")


def build(
    kind: str, title: str, site: Site, recipe: Recipe, defaults: Values, body: Callable[[Graph], None], **texts: str
) -> Any:
    """Make a pipeline of a graph's body: its parameters with their descriptions, and the handler that says how it ended."""
    if (store := recipe.compute.store) and not is_remote(store) and not Path(store).is_absolute():
        raise Refused(f"compute.store: {store!r} would lie in each pod and end with it; expected s3://bucket/prefix or /a/volume")

    def graph(*values: Any) -> None:
        made = Graph(recipe, site, dict(zip(defaults, values, strict=True)))
        with dsl.ExitHandler(made.place(FACES["end"](), "end", label="how it ended"), name=kind):
            body(made)

    kinds = {str: str, int: int}
    graph.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(k, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=v, annotation=kinds.get(type(v), dict))
            for k, v in defaults.items()
        ]
    )
    lines = [f"    {key}: {texts.get(key) or TEXTS.get(key) or f'Section `{key}` of the recipe.'}" for key in defaults]
    graph.__doc__ = "\n".join([f"{title}.", "", "Args:", *lines])
    return dsl.pipeline(name=f"mmenc-{kind}", display_name=title)(graph)


def save(pipeline: Any, out: Path, name: str) -> None:
    """Write a pipeline; equal bytes each time, so without KFP's header, whose dicts change order from process to process."""
    if out.suffix != ".yaml":
        raise Refused(f"{out}: expected a name that ends in .yaml")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(out))
    except OSError as error:
        raise Refused(f"{out}: cannot be written ({error.strerror}); name another place with --out") from None
    body = itertools.dropwhile(lambda line: line.startswith("#"), out.read_text(encoding="utf-8").splitlines(keepends=True))
    out.write_text(f"# Compiled by `mmenc compile` from the recipe of {name}.\n" + "".join(body), encoding="utf-8")
