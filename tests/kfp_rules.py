"""The rules that `kfp_server.py` keeps: routes and types of the API, what an upload and a schedule must be, how a run walks.

Routes and types are read out of `kfp_server_api`, the graph's form out of the protobufs; the rest was read in the source of the
real server (kubeflow/pipelines) and says so.
"""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import kfp_server_api as kfp
import yaml
from dateutil.parser import isoparse
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from kfp_server_api import api as services


class Bad(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    operation: str
    body: str
    answer: str
    query: dict[str, str]
    file: bool


def routes() -> list[Route]:
    """Every operation of the client package."""
    found = []
    for name, service in inspect.getmembers(services, inspect.isclass):
        if not name.endswith("Api"):
            continue
        for operation, function in inspect.getmembers(service, inspect.isfunction):
            if not operation.endswith("_with_http_info"):
                continue
            source, types = inspect.getsource(function), dict(re.findall(r":type (\w+): (\S+)", inspect.getdoc(function)))
            path, method = re.search(r"call_api\(\s*'([^']+)', '([A-Z]+)'", source).groups()
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            pattern = "".join(
                f"(?P<{p[1:-1].replace('.', '_')}>[^/:]+)" if p.startswith("{") else re.escape(p)
                for p in re.split(r"(\{[^}]+\})", path)
            )
            words = re.findall(r"query_params.append\(\('(\w+)'", source)
            answer = re.search(r"response_type='([^']*)'", source)[1]
            query = {word: types[word].rstrip(",") for word in words}
            short = operation.removesuffix("_with_http_info")
            kind = types[body[1]] if body else ""
            found.append(Route(method, re.compile(pattern), short, kind, answer, query, "local_var_files['" in source))
    return sorted(found, key=lambda r: "{" in r.path.pattern or "(?P" in r.path.pattern)


ROUTES = routes()


def strict(data: Any, kind: str, at: str = "body") -> None:
    """Refuse what a model does not know: fields, types, words of an enumeration."""
    if listed := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(data, list):
            raise Bad(400, f"{at}: expected a list")
        for i, item in enumerate(data):
            strict(item, listed[1], f"{at}[{i}]")
    elif mapped := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(data, dict):
            raise Bad(400, f"{at}: expected a mapping")
        for key, item in data.items():
            strict(item, mapped[1], f"{at}.{key}")
    elif kind == "datetime":
        try:
            isoparse(data)
        except (TypeError, ValueError):
            raise Bad(400, f"{at}: expected a time") from None
    elif kind in ("str", "bool", "int", "float"):
        python = {"str": str, "bool": bool, "int": int, "float": (int, float)}[kind]
        if not isinstance(data, python) or (kind == "int" and isinstance(data, bool)):
            raise Bad(400, f"{at}: expected {kind}, got {data!r}")
    elif kind != "object":
        model = getattr(kfp.models, kind)
        if not model.openapi_types:
            if data not in model.allowable_values:
                raise Bad(400, f"{at}: {data!r} is none of {model.allowable_values}")
            return
        if not isinstance(data, dict):
            raise Bad(400, f"{at}: expected {kind}")
        names = {field: model.openapi_types[attribute] for attribute, field in model.attribute_map.items()}
        for key, item in data.items():
            if key not in names:
                raise Bad(400, f"{at}: unknown field {key!r} of {kind}")
            strict(item, names[key], f"{at}.{key}")


def read_package(text: str) -> tuple[dict, dict]:
    """Pipeline and platform spec of an upload, parsed as the server does: strictly, and the graph must hold together."""
    pipeline, platform = None, {}
    for document in yaml.load_all(text, Loader=yaml.CSafeLoader):
        try:
            if document and "platforms" in document:
                json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec(), ignore_unknown_fields=False)
                executors = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
                for config in executors.values():
                    empty = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
                    json_format.ParseDict(config, empty, ignore_unknown_fields=False)
                platform = document
            elif document:
                if pipeline is not None:
                    raise Bad(400, "multiple pipeline specs provided")
                json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec(), ignore_unknown_fields=False)
                pipeline = document
        except (json_format.ParseError, KeyError, TypeError) as error:
            raise Bad(400, f"invalid v2 pipeline spec: {error}") from None
    if pipeline is None or pipeline.get("schemaVersion") != "2.1.0" or not pipeline.get("pipelineInfo", {}).get("name"):
        raise Bad(400, "no pipeline spec of schema version 2.1.0 with a name is provided")
    executors = pipeline["deploymentSpec"]["executors"]
    for component in [pipeline["root"], *pipeline["components"].values()]:
        tasks = component.get("dag", {}).get("tasks", {})
        for key, task in tasks.items():
            if task["componentRef"]["name"] not in pipeline["components"]:
                raise Bad(400, f"component spec for {task['componentRef']['name']!r} not found")
            makers = [
                a["taskOutputArtifact"]["producerTask"]
                for a in task.get("inputs", {}).get("artifacts", {}).values()
                if "taskOutputArtifact" in a
            ]
            if missing := {*task.get("dependentTasks", []), *makers} - tasks.keys():
                raise Bad(400, f"task {key} depends on {missing}, which is not there")
        if (label := component.get("executorLabel")) and label not in executors:
            raise Bad(400, f"executor with label {label!r} not found")
    if not set(platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})) <= set(
        executors
    ):
        raise Bad(400, "platform spec of an executor that is not there")
    return pipeline, platform


KINDS = {
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


def check_parameters(spec: dict, given: dict) -> None:
    """As validatePipelineJobInputs of the API server."""
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in given.items():
        if name not in known:
            raise Bad(400, f"parameter(s) provided are not required by pipeline: {name}")
        kind = known[name]["parameterType"]
        if not isinstance(value, KINDS[kind]) or (kind.startswith("NUMBER") and isinstance(value, bool)):
            raise Bad(400, f"input parameter {name} requires type {kind}")
    for name, parameter in known.items():
        if name not in given and "defaultValue" not in parameter and not parameter.get("isOptional"):
            raise Bad(400, f"parameter {name} is not optional, yet has neither default value nor user provided value")


def check_cron(text: str) -> None:
    """robfig/cron 1: five or six fields, the first of them seconds."""
    limits = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
    fields = text.split()
    if len(fields) not in (5, 6):
        raise Bad(400, f"Schedule cron is not a supported format: {len(fields)} fields")
    for field, (low, high) in zip(fields, limits, strict=False):
        if any(not low <= int(number) <= high for number in re.findall(r"(?<![/\d])\d+", field)):
            raise Bad(400, f"Schedule cron is not a supported format: {field}")


class Walk:
    """A run through its graph: PENDING → RUNNING → SUCCEEDED or FAILED, branches in parallel, exit tasks at the end."""

    def __init__(self, spec: dict, fail: dict[str, str], told: bool):
        self.spec, self.fail, self.told = spec, fail, told
        self.state, self.nodes = "PENDING", {}

    def step(self) -> None:
        if self.state == "PENDING":
            self.state = "RUNNING"
            return
        self._advance(self.spec["root"], "root")
        self.state = self._outcome(self.spec["root"], "root")

    def _ready(self, component: dict, path: str) -> list[str]:
        found = []
        for key, task in component["dag"]["tasks"].items():
            parents = [self.nodes.get(f"{path}/{d}", {}).get("state") for d in task.get("dependentTasks", [])]
            last = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            enough = ("SUCCEEDED", "FAILED") if last else ("SUCCEEDED",)
            if f"{path}/{key}" not in self.nodes and all(s in enough for s in parents):
                found.append(key)
        return found

    def _outcome(self, component: dict, path: str) -> str:
        inside = [n["state"] for p, n in self.nodes.items() if p.startswith(path + "/")]
        if "RUNNING" in inside or self._ready(component, path):
            return "RUNNING"
        return "FAILED" if "FAILED" in inside else "SUCCEEDED"

    def _advance(self, component: dict, path: str) -> None:
        ready, tasks = self._ready(component, path), component["dag"]["tasks"]
        for key, task in tasks.items():
            below, at = self.spec["components"][task["componentRef"]["name"]], f"{path}/{key}"
            if key in ready:
                self.nodes[at] = {"key": key, "state": "RUNNING", "error": "", "dag": "dag" in below}
            elif self.nodes.get(at, {}).get("state") != "RUNNING":
                continue
            elif "dag" in below:
                self._advance(below, at)
                self.nodes[at]["state"] = self._outcome(below, at)
            else:
                error = self.fail.get(task.get("taskInfo", {}).get("name", key))
                self.nodes[at] |= {"state": "SUCCEEDED" if error is None else "FAILED", "error": error or ""}

    def details(self, run_id: str) -> list[kfp.V2beta1PipelineTaskDetail]:
        """One entry per workflow node, named by the task's key; drivers and executors are nodes of their own."""
        made = datetime(2026, 1, 1, tzinfo=UTC)
        found = [("root-driver", "root-driver", "SUCCEEDED", "", []), ("root", "root", self.state, "", [])]
        for path, node in self.nodes.items():
            found.append((f"{path}-driver", f"{node['key']}-driver", "SUCCEEDED", "", []))
            below = [] if node["dag"] else [f"{path}-executor"]
            found.append((path, node["key"], node["state"], node["error"], below))
            if below:
                found.append((below[0], "executor", node["state"], node["error"], []))
        rows = []
        for i, (path, name, state, error, below) in enumerate(found):
            ended = made.replace(minute=1, second=i % 60) if state in ("SUCCEEDED", "FAILED") else None
            # The real server fills no error in (kubeflow/pipelines#14007); one that follows the API's definition does.
            status = kfp.GoogleRpcStatus(code=2, message=error) if error and self.told else None
            children = [kfp.PipelineTaskDetailChildTask(task_id=b) for b in below]
            children += [kfp.PipelineTaskDetailChildTask(pod_name=f"mmenc-{i}-impl")] if below else []
            rows.append(
                kfp.V2beta1PipelineTaskDetail(
                    run_id=run_id, task_id=path, display_name=name, state=state, error=status, child_tasks=children or None,
                    create_time=made, start_time=made, end_time=ended,
                    state_history=[kfp.V2beta1RuntimeStatus(update_time=made, state=state)],
                )
            )  # fmt: skip
        return rows
