"""A loopback server that speaks Kubeflow Pipelines' REST API as KFP's own client package defines it.

A path, query word, field or type that is not in `kfp_server_api` is refused (404, 400). Uploads are parsed strictly, parameters
are checked against them, and a run takes one step through its graph each time somebody looks: no clock, no sleeping.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import kfp_server_api as kfp

from tests.kfp_rules import ROUTES, Bad, Walk, check_cron, check_parameters, read_package, strict

TO_JSON = kfp.ApiClient().sanitize_for_serialization


class Server:
    """The server's state, its faults, and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.calls: Counter[str] = Counter()
        self.pipelines, self.versions, self.experiments, self.runs, self.recurring = {}, {}, {}, {}, {}
        self.uploads, self.walks = {}, {}
        self.log: list[str] = []
        self.token, self.cookie, self.namespaces = "", "", None
        """What lets in; `namespaces` not None: several users."""
        self.fail: dict[str, str] = {}
        """Label of a task → message of its failure."""
        self.tells, self.hold, self.login = True, False, False
        self.stride = 1
        """Steps that a run takes between two looks."""
        self.busy, self.slow = 0, 0.0
        """So many answers are 503; each takes so many seconds."""
        self.drop: dict[str, int] = {}
        """Operation → how often the connection is broken *after* it was carried out."""
        self.lock = threading.RLock()

    def handle(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict]:
        parts = urlsplit(target)
        path = parts.path
        matches = [(r, m) for r in ROUTES if (m := r.path.fullmatch(path))]
        route, match = next(((r, m) for r, m in matches if r.method == method), (None, None))
        if route is None:
            raise Bad(405 if matches else 404, "Method Not Allowed" if matches else "Not Found")
        self.calls[route.operation] += 1
        if self.busy:
            self.busy -= 1
            raise Bad(503, "upstream connect error")
        self._let_in(headers)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        for word, value in query.items():
            if word not in route.query:
                raise Bad(400, f"unknown query word {word!r}")
            if route.query[word] == "int" and not value.isdecimal():
                raise Bad(400, f"{word}: expected a number")
        data: Any = None
        if route.file:
            data = self._file(headers, body)
        elif route.body:
            try:
                data = json.loads(body)
            except ValueError:
                raise Bad(400, "no JSON") from None
            strict(data, route.body)
        elif body and json.loads(body):
            raise Bad(400, "a body where none belongs")
        action = getattr(self, route.operation, None)
        if action is None:
            raise Bad(501, f"{route.operation} is not imitated")
        with self.lock:
            answer = TO_JSON(action(data=data, query=query, **{k: unquote(v) for k, v in match.groupdict().items()}))
        if route.answer != "object":
            strict(answer, route.answer, "answer")
        if self.drop.get(route.operation):
            self.drop[route.operation] -= 1
            raise ConnectionAbortedError
        return 200, answer

    def _let_in(self, headers: dict[str, str]) -> None:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            raise Bad(401, "Unauthenticated")
        if self.cookie and headers.get("cookie") != self.cookie:
            raise Bad(401, "Unauthenticated")

    def _space(self, namespace: str | None, filtering: bool = False) -> None:
        """One user: no namespace is allowed in a list; several: it must be one's own."""
        if self.namespaces is None:
            if namespace and filtering:
                raise Bad(400, "In single-user mode, ListExperiment cannot filter by namespace")
        elif not namespace:
            raise Bad(400, "Invalid input error: namespace is empty")
        elif namespace not in self.namespaces:
            raise Bad(403, f"User is not authorized in namespace {namespace}")

    @staticmethod
    def _file(headers: dict[str, str], body: bytes) -> str:
        head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + body).get_payload()
        files = [p for p in parts if p.get_param("name", header="content-disposition") == "uploadfile"]
        if len(files) != 1 or not files[0].get_filename("").endswith((".yaml", ".yml")):
            raise Bad(400, "Failed to read pipeline from file")
        return files[0].get_payload(decode=True).decode()

    @staticmethod
    def _page(rows: list[Any], query: dict[str, str]) -> tuple[list[Any] | None, int, str | None]:
        """Filter and cut as the server does: twenty rows a page unless it is told otherwise, no field at all for none."""
        if query.get("filter"):
            if re.search(r"%(?![0-9a-fA-F]{2})", query["filter"]):
                raise Bad(400, "failed to parse valid filter: invalid URL escape")
            condition = json.loads(unquote_plus(query["filter"]))  # once more, as parseAPIFilter of the API server
            for predicate in condition["predicates"]:
                if "stringValue" in predicate:  # protobuf's JSON knows both spellings, and enumerations by number
                    predicate["string_value"] = predicate.pop("stringValue")
                predicate["operation"] = {1: "EQUALS"}.get(predicate["operation"], predicate["operation"])
            strict(condition, "V2beta1Filter", "filter")
            for predicate in condition["predicates"]:
                if predicate["operation"] != "EQUALS" or predicate["key"] not in ("display_name", "name"):
                    raise Bad(400, f"this filter is not imitated: {predicate}")
                rows = [r for r in rows if getattr(r, predicate["key"]) == predicate["string_value"]]
        start = int(base64.b64decode(query["page_token"])) if query.get("page_token") else 0
        end = start + int(query.get("page_size") or 20)
        return rows[start:end] or None, len(rows), base64.b64encode(str(end).encode()).decode() if end < len(rows) else None

    @staticmethod
    def _get(table: dict[str, Any], key: str, what: str) -> Any:
        if key not in table:
            raise Bad(404, f"ResourceNotFoundError: {what} {key} not found.")
        return table[key]

    def healthz_service_get_healthz(self, **_: Any) -> Any:
        return kfp.V2beta1GetHealthzResponse(multi_user=self.namespaces is not None, pipeline_store="database")

    def pipeline_service_list_pipelines(self, query: dict, **_: Any) -> Any:
        if self.namespaces is not None:
            self._space(query.get("namespace"))
        rows = [p for p in self.pipelines.values() if (p.namespace or "") == query.get("namespace", "")]
        rows, total, token = self._page(rows, query)
        return kfp.V2beta1ListPipelinesResponse(pipelines=rows, total_size=total, next_page_token=token)

    def pipeline_service_create_pipeline(self, data: dict, **_: Any) -> Any:
        self._space(data.get("namespace"))
        if any(p.name == data["name"] and (p.namespace or "") == data.get("namespace", "") for p in self.pipelines.values()):
            raise Bad(409, f"Already exist error: The name {data['name']} already exist")
        made = kfp.V2beta1Pipeline(pipeline_id=str(uuid.uuid4()), created_at=datetime.now(UTC), **data)
        self.pipelines[made.pipeline_id] = made
        return made

    def pipeline_service_list_pipeline_versions(self, query: dict, pipeline_id: str, **_: Any) -> Any:
        self._get(self.pipelines, pipeline_id, "Pipeline")
        rows, total, token = self._page([v for v in self.versions.values() if v.pipeline_id == pipeline_id], query)
        return kfp.V2beta1ListPipelineVersionsResponse(pipeline_versions=rows, total_size=total, next_page_token=token)

    def upload_pipeline_version(self, data: str, query: dict, **_: Any) -> Any:
        self._get(self.pipelines, query.get("pipelineid", ""), "Pipeline")
        if any(v.name == query["name"] and v.pipeline_id == query["pipelineid"] for v in self.versions.values()):
            raise Bad(409, "Failed to create a pipeline version")
        spec, platform = read_package(data)
        identity = str(uuid.uuid4())
        self.uploads[identity] = data
        whole = {"pipeline_spec": spec, "platform_spec": platform} if platform else spec
        self.versions[identity] = kfp.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"], pipeline_version_id=identity, name=query["name"],
            display_name=query.get("display_name") or query["name"], created_at=datetime.now(UTC), pipeline_spec=whole,
        )  # fmt: skip
        return self.versions[identity]

    def experiment_service_list_experiments(self, query: dict, **_: Any) -> Any:
        self._space(query.get("namespace"), filtering=True)
        rows = [e for e in self.experiments.values() if (e.namespace or "") == query.get("namespace", "")]
        rows, total, token = self._page(rows, query)
        return kfp.V2beta1ListExperimentsResponse(experiments=rows, total_size=total, next_page_token=token)

    def experiment_service_create_experiment(self, data: dict, **_: Any) -> Any:
        self._space(data.get("namespace"))
        if any(e.display_name == data["display_name"] for e in self.experiments.values()):
            raise Bad(409, "Already exist error")
        made = kfp.V2beta1Experiment(experiment_id=str(uuid.uuid4()), storage_state="AVAILABLE", **data)
        self.experiments[made.experiment_id] = made
        return made

    def _source(self, data: dict) -> dict:
        """The spec of what shall run; its parameters fit."""
        self._get(self.experiments, data.get("experiment_id", ""), "Experiment")
        reference = data.get("pipeline_version_reference") or {}
        version = self._get(self.versions, reference.get("pipeline_version_id", ""), "PipelineVersion")
        if reference.get("pipeline_id") != version.pipeline_id:
            raise Bad(400, "Invalid pipeline version reference")
        spec = version.pipeline_spec.get("pipeline_spec", version.pipeline_spec)
        check_parameters(spec, data.get("runtime_config", {}).get("parameters", {}))
        return spec

    def run_service_create_run(self, data: dict, **_: Any) -> Any:
        spec, identity = self._source(data), str(uuid.uuid4())
        self.runs[identity] = data | {"run_id": identity, "state": "PENDING", "created_at": datetime.now(UTC)}
        self.walks[identity] = Walk(spec, self.fail, self.tells)
        return kfp.V2beta1Run(**self.runs[identity])

    def run_service_list_runs(self, query: dict, **_: Any) -> Any:
        rows = [kfp.V2beta1Run(**r) for r in self.runs.values() if r["experiment_id"] == query.get("experiment_id")]
        rows, total, token = self._page(rows, query)
        return kfp.V2beta1ListRunsResponse(runs=rows, total_size=total, next_page_token=token)

    def run_service_get_run(self, run_id: str, **_: Any) -> Any:
        data, walk = self._get(self.runs, run_id, "Run"), self.walks[run_id]
        seen = kfp.V2beta1RunDetails(task_details=walk.details(run_id))
        answer = kfp.V2beta1Run(**(data | {"state": walk.state, "run_details": seen}))
        for _step in range(0 if self.hold else self.stride):
            if walk.state in ("PENDING", "RUNNING"):
                walk.step()
        return answer

    def recurring_run_service_create_recurring_run(self, data: dict, **_: Any) -> Any:
        self._source(data)
        if self.namespaces is not None:
            self._space(data.get("namespace"))
        if not 1 <= int(data.get("max_concurrency", 0)) <= 10:
            raise Bad(400, "The max concurrency of the recurring run is out of range. Support 1-10.")
        trigger = data["trigger"]
        if len(trigger) != 1:
            raise Bad(400, "a trigger is one of cron and period")
        if "cron_schedule" in trigger:
            check_cron(trigger["cron_schedule"]["cron"])
        elif int(trigger["periodic_schedule"]["interval_second"]) < 1:
            raise Bad(400, "Found invalid period schedule interval")
        identity = str(uuid.uuid4())
        self.log.append(f"create {identity}")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[data["mode"]]
        self.recurring[identity] = data | {"recurring_run_id": identity, "status": status}
        return kfp.V2beta1RecurringRun(**self.recurring[identity])

    def recurring_run_service_list_recurring_runs(self, query: dict, **_: Any) -> Any:
        rows = [kfp.V2beta1RecurringRun(**r) for r in self.recurring.values() if r["experiment_id"] == query["experiment_id"]]
        rows, total, token = self._page(rows, query)
        return kfp.V2beta1ListRecurringRunsResponse(recurring_runs=rows, total_size=total, next_page_token=token)

    def _switch(self, identity: str, status: str) -> dict:
        self._get(self.recurring, identity, "RecurringRun")["status"] = status
        self.log.append(f"{status} {identity}")
        return {}

    def recurring_run_service_disable_recurring_run(self, recurring_run_id: str, **_: Any) -> Any:
        return self._switch(recurring_run_id, "DISABLED")

    def recurring_run_service_enable_recurring_run(self, recurring_run_id: str, **_: Any) -> Any:
        return self._switch(recurring_run_id, "ENABLED")

    def recurring_run_service_delete_recurring_run(self, recurring_run_id: str, **_: Any) -> Any:
        self._get(self.recurring, recurring_run_id, "RecurringRun")
        del self.recurring[recurring_run_id]
        self.log.append(f"delete {recurring_run_id}")
        return {}

    def graph(self) -> tuple[dict, dict]:
        """Pipeline and platform spec of the last upload."""
        return read_package(next(reversed(self.uploads.values())))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _serve(self) -> None:
        state: Server = self.server.state
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {k.lower(): v for k, v in self.headers.items()}
        state.requests.append((self.command, self.path, headers, body))
        time.sleep(state.slow)
        try:
            if state.login and self.path != "/dex/auth":
                self._send(302, b"", "text/html", {"Location": "/dex/auth"})
                return
            if state.login:
                self._send(200, b"<html>log in</html>", "text/html")
                return
            status, data = state.handle(self.command, self.path, headers, body)
        except Bad as error:
            status, data = error.status, {"code": 3, "message": str(error), "details": []}
            if "/upload" in self.path:  # no gRPC behind these two
                data = {"error_message": str(error), "error_details": f"{error}\ngoroutine 1 [running]: …"}
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, json.dumps(data).encode())

    def _send(self, status: int, body: bytes, kind: str = "application/json", more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _serve

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that hangs up, or a connection that was to be broken."""


@contextmanager
def kfp_server(certificate: Path | None = None):
    """The running server: its state, with `url`; with a certificate and its key in one file it speaks TLS."""
    state = Server()
    server = Quiet(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads, server.state = True, state
    state.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
