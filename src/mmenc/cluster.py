"""Section `compute.cluster`: what each task gets of a Kubernetes cluster; read when a pipeline is compiled, never by a step.

Decisions: nothing here names a particular cluster; the defaults ask for what a laptop recipe needs and no more. Request
and limit of CPU and memory are one figure (guaranteed, so that a long training is the last to be evicted). `resources`
says what differs: under `default`, a step's name, or `STEP NAME` for one phase, later ones over earlier ones, key by key.
A service account is not here: Kubeflow takes it per run (`mmenc submit`), not per task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from mmenc.errors import nearest
from mmenc.fields import Count, Positive, Section
from mmenc.steps import TABLE

if TYPE_CHECKING:
    from mmenc.recipe import Recipe

GRAPH_TASKS = ("end", "compare", "launcher")
"""Tasks of the graphs that are no steps: the exit handler, the table of `pipelines/evaluate.py`, and what a train task itself
gets where `compute.nodes` is more than 1 and its TrainJob's pods do the work."""
STATE, COMPUTE, TRAINJOB, ACCOUNT = "MMENC_STATE", "MMENC_COMPUTE", "MMENC_TRAINJOB", "MMENC_SERVICE_ACCOUNT"
SHARE = "MMENC_SHARE"
"""Environment of a pod that the compiled graph itself sets: where state is kept, `compute` for records (`kubeflow.py`), of a
launcher its TrainJob (`trainjob.py`) and service account, and of a data step that others help (`split`) its share."""

Object = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Name of a Kubernetes object."""
Key = Annotated[str, StringConstraints(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
"""Key of a label, an annotation, a taint or an extended resource."""
Value = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
"""Value of a label."""
SecretKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,253}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Amount = Annotated[float, Field(ge=0)]


class Toleration(Section):
    """Lets pods onto nodes with a taint, as in Kubernetes; an empty key with `Exists` is every taint."""

    key: Key | Literal[""] = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: Value = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Empty: every effect."""
    seconds: Count = 0
    """How long a pod stays under `NoExecute`; 0: for good."""

    @model_validator(mode="after")
    def _consistent(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise PydanticCustomError("toleration", "Exists takes no value; leave it out, or set operator to Equal")
        if self.operator == "Equal" and not self.key:
            raise PydanticCustomError("toleration", "Equal needs a key; name the taint, or set operator to Exists")
        return self


class Resources(Section):
    """What one task gets. What is not said here is taken from the step, then from `default`, then from these defaults."""

    cpu: Amount = 0.0
    """Cores; 0: as many as `compute.threads`."""
    memory_gb: Annotated[float, Field(gt=0)] = 8.0
    """Of the host; the accelerator's is `compute.memory_gb`."""
    accelerators: Count = 0
    """0: where `compute.device` is cuda, `compute.accelerators` for training and for an evaluation that fine-tunes; none else."""
    accelerator_type: Key = "nvidia.com/gpu"
    shared_memory_gb: Amount = 0.0
    """Size of /dev/shm, part of `memory_gb`; 0: what the container runtime gives (64 MB)."""
    node_selector: dict[Key, Value] = {}
    tolerations: list[Toleration] = []
    labels: dict[Key, Value] = {}
    """Beside those of `cluster.labels`, such as another queue for the tasks with accelerators."""
    retries: Count = 2
    """After a failure of any kind: Kubeflow cannot tell a refusal from a lost node."""
    backoff_seconds: Positive = 60
    backoff_factor: Annotated[float, Field(ge=1)] = 2.0
    timeout_hours: Amount = 0.0
    """Of one attempt; 0: none."""
    timeout_times_plan: Amount = 0.0
    """For train: an attempt ends after so many times the hours that `mmenc plan` expects, and one; 0: as `timeout_hours`."""

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was said: a default written out would override that of another level when the recipe is read again."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class Trainer(Section):
    """How Kubeflow Trainer runs a phase on several nodes (`compute.nodes`); each gets what `resources` says of train."""

    runtime: Object = "torch-distributed"
    """The runtime that the TrainJob refers to; the default comes with Trainer."""
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    gang: Literal["", "coscheduling", "volcano"] = ""
    """Scheduler that starts all pods or none. Not empty: `mmenc trainjob --runtime` makes a runtime that asks for it, which takes
    the place of `runtime`. Kueue admits a job as a whole: leave this empty there."""
    gang_seconds: Positive = 300
    """After which coscheduling gives resources back if not all pods fit."""
    restarts: Count = 3
    """How often in a row the job is started anew without a step more being saved; after progress any number of times."""
    grace_seconds: Positive = 120
    """That pods get after SIGTERM to finish their step and save the state."""


class Cluster(Section):
    """What all pods get, and `resources` for each kind of task."""

    resources: dict[str, Resources] = {}
    secrets: dict[Object, dict[SecretKey, Variable]] = {}
    """Secret, key in it, environment variable: `{store: {access: AWS_ACCESS_KEY_ID}}`."""
    env: dict[Variable, str] = {}
    """Plain values, such as AWS_ENDPOINT_URL; never a password."""
    labels: dict[Key, Value] = {}
    """Such as `kueue.x-k8s.io/queue-name` and `kueue.x-k8s.io/priority-class`."""
    annotations: dict[Key, str] = {}
    image_pull_secrets: list[Object] = []
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Empty: the cluster's own."""
    split: Annotated[Positive, Field(le=64)] = 1
    """Pods that make the parts of ingest, clean and tokenize together, each a task of the graph; more than 1 need `compute.store`
    (docs/kubeflow.md)."""
    trainer: Trainer = Trainer()
    """Read where `compute.nodes` is more than 1."""
    state_claim: Object | Literal[""] = ""
    """A volume claim (many readers and writers) that keeps resume state and run records between pods; `compute.store` needs
    none."""


def check(recipe: Recipe, refuse: Callable[[str, str], NoReturn]) -> None:
    """Refuse what the cluster section contradicts in itself or in the rest of the recipe."""
    _resources(recipe, refuse)
    cluster, here = recipe.compute.cluster, "compute.cluster"
    taken = {STATE: f"{here}.state_claim", **dict.fromkeys((COMPUTE, TRAINJOB, ACCOUNT, SHARE), "the compiled graph")}
    if recipe.compute.nodes > 1 and not recipe.compute.store:
        nodes = recipe.compute.nodes
        refuse("compute.store", f"is empty, but compute.nodes is {nodes}; expected s3://bucket/prefix, where the nodes meet")
    if cluster.split > 1 and not recipe.compute.store:
        refuse(
            "compute.store", f"is empty, but {here}.split is {cluster.split}; expected s3://bucket/prefix, where the pods meet"
        )
    for variable in cluster.env:
        if variable in taken:
            refuse(f"{here}.env.{variable}", f"is set by {taken[variable]}; leave it out")
    taken |= dict.fromkeys(cluster.env, f"{here}.env")
    for secret, keys in cluster.secrets.items():
        for key, variable in keys.items():
            if variable in taken:
                refuse(f"{here}.secrets.{secret}.{key}", f"{variable} is set by {taken[variable]} already")
            taken[variable] = f"{here}.secrets.{secret}"


def _resources(recipe: Recipe, refuse: Callable[[str, str], NoReturn]) -> None:
    known = ["default", *TABLE, *GRAPH_TASKS]
    for step in TABLE.values():
        if step.instances:
            known += [f"{step.name} {name}" for name in [*recipe.phases, *(["merge"] if step.name == "evaluate" else [])]]
    for name, wanted in recipe.compute.cluster.resources.items():
        here = f"compute.cluster.resources.{name}"
        if name not in known:
            expected = f"; expected default, STEP or STEP NAME, steps: {', '.join([*TABLE, *GRAPH_TASKS])}"
            refuse(here, f"no task is called {name!r}{nearest(name, known) or expected}")
        if wanted.accelerators and recipe.compute.device == "cpu":
            refuse(f"{here}.accelerators", f"is {wanted.accelerators}, but compute.device is cpu; set it to cuda")
        levels = [recipe.compute.cluster.resources.get(level) for level in (name, name.split()[0], "default")]
        shared, memory = (_said(levels, key) for key in ("shared_memory_gb", "memory_gb"))
        if shared > memory:
            refuse(f"{here}.shared_memory_gb", f"{shared:g} GB is more than the memory_gb {memory:g} that it is part of")


def _said(levels: Sequence[Resources | None], key: str) -> float:
    """The first level that says a key, else its default."""
    found: float = next((getattr(r, key) for r in levels if r and key in r.model_fields_set), getattr(Resources(), key))
    return found
