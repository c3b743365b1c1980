"""The calls of Kubernetes' API that a launcher makes: TrainJobs, their pods, their logs.

Decisions: reads and deletions are repeated while the API server is away (it is restarted now and then, and so are its proxies);
a creation is repeated only after a look whether the job is there (trainer.py). Answers 401 and 403 are one sentence at once. A
deletion waits until the pods are gone: two jobs of one digest must not write one state.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenc.artifact import Json
from mmenc.errors import Refused

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PATIENCE = 600.0
"""Seconds that an API server which does not answer is waited for."""
PAUSE, LONGEST_PAUSE = 1.0, 15.0
TIMEOUT = (5, 60)
"""Seconds to connect, and between two pieces of an answer."""
TAIL = 15
POD = Path("/var/run/secrets/kubernetes.io")
"""Is there in a pod alone."""
INDEX = "batch.kubernetes.io/job-completion-index"


class Silent(Refused):
    """No answer, or one that may pass."""


class Conflict(Refused):
    """Somebody made it in between (409)."""


@dataclass(frozen=True)
class Pod:
    """One node of a job."""

    name: str
    index: int
    state: str
    """Pending, Running, Succeeded, Failed."""
    reason: str
    """Why it failed or waits."""

    @property
    def begun(self) -> bool:
        """Whether it has a log."""
        return self.state != "Pending"


class Jobs:
    """TrainJobs of one namespace: that of this pod, or of the context of $KUBECONFIG."""

    def __init__(self) -> None:
        self.backend = _connect()
        self.custom, self.core = self.backend.custom_api, self.backend.core_api
        self.namespace = str(self.backend.namespace)
        self.place = (GROUP, VERSION, self.namespace, PLURAL)

    def runtime(self, reference: Json) -> None:
        """Refused with the names that there are if the runtime is not, or is none for torch."""
        name = reference["name"]
        known = {r.name: r for r in self._ask(self.backend.list_runtimes, sdk=True)}
        if name not in known:
            gang = name.startswith("mmenc-")
            remedy = "`mmenc trainjob --runtime | kubectl apply -f -`" if gang else "name one in compute.cluster.trainer.runtime"
            there = ", ".join(known) or "none"
            raise Refused(f"runtime {name}: is not in namespace {self.namespace}; there are {there}; {remedy}")
        if (framework := known[name].trainer.framework) != "torch":
            raise Refused(f"runtime {name}: is of {framework}, expected one of torch")

    def get(self, name: str) -> Json | None:
        """A job; None if there is none."""
        found: Json | None = self._ask(self.custom.get_namespaced_custom_object, *self.place, name, missing=None)
        return found

    def create(self, body: Json) -> None:
        """Create a job; Conflict if one of its name is there, or may be after an answer that was lost."""
        try:
            self._ask(self.custom.create_namespaced_custom_object, *self.place, body, repeated=False)
        except Silent as error:
            time.sleep(PAUSE)
            raise Conflict(str(error)) from None

    def delete(self, name: str) -> None:
        """Delete a job and wait until its pods are gone."""
        end, last = time.monotonic() + PATIENCE, ""
        while (found := self.get(name)) is not None:
            identity = found["metadata"].get("uid", "")
            if last and identity != last:
                return  # another launcher's, made since
            if not found["metadata"].get("deletionTimestamp"):
                body = {"propagationPolicy": "Foreground"}
                self._ask(self.custom.delete_namespaced_custom_object, *self.place, name, body=body, missing=None)
            if time.monotonic() > end:
                raise Refused(f"TrainJob {name}: its pods do not end; `kubectl get pods -n {self.namespace}` says why")
            last = identity
            time.sleep(min(PAUSE, 1.0))

    def pods(self, name: str) -> list[Pod]:
        """Pods of a job's nodes, those that are ending included, in the nodes' order."""
        label = f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name=node"
        found = self._ask(self.core.list_namespaced_pod, self.namespace, label_selector=label).items
        return sorted((_pod(row) for row in found), key=lambda pod: (pod.index, pod.name))

    def running(self, pod: str) -> bool:
        """Whether a pod may print more."""
        found = self._ask(self.core.read_namespaced_pod, pod, self.namespace, missing=None)
        return found is not None and found.status.phase in ("Pending", "Running")

    def lines(self, pod: str) -> Iterator[str]:
        """What a pod prints, from the beginning, until it ends or the connection does."""
        options: Any = {"container": "node", "follow": True, "_preload_content": False}
        answer = self._ask(self.core.read_namespaced_pod_log, pod, self.namespace, repeated=False, **options)
        rest = b""
        try:
            for piece in answer.stream(decode_content=False):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
        except Exception as error:  # noqa: BLE001 (judged there)
            raise _judged(error, self.namespace) from None
        if rest:
            yield rest.decode(errors="replace")

    def tail(self, pod: str) -> list[str]:
        """The last lines that a pod printed; none if they are gone with it."""
        options: Any = {"container": "node", "tail_lines": TAIL}
        try:
            text = self._ask(self.core.read_namespaced_pod_log, pod, self.namespace, missing="", **options)
        except Refused:
            return []
        return str(text).splitlines()

    def _ask(self, function: Callable[..., Any], *args: Any, repeated: bool = True, sdk: bool = False, **options: Any) -> Any:
        """Call; with `missing` that is the answer where there is no such thing. Functions of the SDK have their own time-outs."""
        end, pause = time.monotonic() + PATIENCE, PAUSE
        gives_up, missing = "missing" not in options, options.pop("missing", None)
        if not sdk:
            options["_request_timeout"] = TIMEOUT
        while True:
            try:
                return function(*args, **options)
            except Exception as error:  # noqa: BLE001 (the SDK wraps what it met in errors of its own)
                judged = _judged(error, self.namespace)
                if getattr(error, "status", 0) == 404 and not gives_up:
                    return missing
                if not isinstance(judged, Silent) or not repeated or time.monotonic() + pause > end:
                    raise judged from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _connect() -> Any:
    """The SDK's backend; kubectl's current context is not used unasked, a run must not start wherever it points."""
    try:
        from kubeflow.trainer import KubernetesBackendConfig, TrainerClient
        from kubernetes.config import list_kube_config_contexts
    except ModuleNotFoundError:
        raise Refused("the SDK of Kubeflow is not installed; `pip install 'mmenc[trainer]'` brings it") from None
    if not POD.is_dir() and not os.environ.get("KUBECONFIG"):
        raise Refused(
            "compute.nodes: this is no pod of a cluster; `mmenc submit`, or export KUBECONFIG to say which one is meant"
        )
    logging.getLogger("kubeflow").setLevel(logging.ERROR)  # it warns where it may not read its version
    try:
        if not (file := os.environ.get("KUBECONFIG")):
            return TrainerClient(KubernetesBackendConfig()).backend
        _, context = list_kube_config_contexts(file)
        space = context["context"].get("namespace", "default")
        return TrainerClient(KubernetesBackendConfig(config_file=file, namespace=space)).backend
    except Exception as error:  # noqa: BLE001 (of the SDK, of Kubernetes' client, of a file that is no YAML)
        raise Refused(f"{os.environ.get('KUBECONFIG', POD)}: no cluster can be reached with it ({_short(error)})") from None


def _pod(row: Any) -> Pod:
    labels, status = row.metadata.labels or {}, row.status
    state, reason = str(status.phase), str(status.reason or "")
    for container in status.container_statuses or ():
        if (ended := container.state and container.state.terminated) and ended.exit_code:
            reason = f"exit code {ended.exit_code}" + (f", {ended.reason}" if ended.reason not in (None, "Error") else "")
        if (waits := container.state and container.state.waiting) and waits.reason != "ContainerCreating":
            reason = f"{waits.reason}: {waits.message or ''}".rstrip(": ")
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            reason = f"{condition.reason}: {condition.message or ''}".rstrip(": ")
        if condition.type == "DisruptionTarget" and condition.status == "True":
            reason = f"{reason}, {condition.reason}".lstrip(", ")
    return Pod(row.metadata.name, int(labels.get(INDEX, 0)), state, reason)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _judged(error: Exception, namespace: str) -> Refused:
    """What an error means for the launcher."""
    cause = next((e for e in _causes(error) if hasattr(e, "status") or type(e).__module__.startswith("urllib3")), error)
    status = int(getattr(cause, "status", 0) or 0)
    if status in (401, 403):
        told = "401: no credential, or a wrong one" if status == 401 else "403: the task's service account lacks the role"
        return Refused(f"namespace {namespace}: {told} (docs/multi-node.md has it)")
    if status == 409:
        return Conflict(f"namespace {namespace}: it is there already")
    if 400 <= status < 500 and status not in (408, 429):
        return Refused(f"namespace {namespace}: {status}: {_message(cause)}")
    if status or type(cause).__module__.startswith("urllib3") or isinstance(cause, OSError | TimeoutError):
        return Silent(f"the API server does not answer ({_short(cause)})")
    raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(error: Any) -> str:
    import json

    try:
        return " ".join(str(json.loads(error.body)["message"]).split())[:500]
    except (AttributeError, ValueError, KeyError, TypeError):
        return _short(error)
