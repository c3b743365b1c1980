"""A loopback server that speaks the part of Kubernetes' API that a launcher calls, and does what Kubeflow Trainer documents.

Objects are checked with the models of `kubeflow-trainer-api` in both directions; what Trainer's webhook refuses is refused. Pods
are real processes of the command in the TrainJob, with the variables that Trainer's torch plugin sets, or stand-ins that a test
moves by hand. Deleting a job in the foreground keeps it, marked, until its processes have ended after SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubeflow_trainer_api import models

SPACE = "ml"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{SPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": [{"name": "node", "template": {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "torch"}]}}}}}]}}},
}  # fmt: skip


class Bad(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Pod:
    """A pod of a node; `process` is what runs in it, if anything does."""

    def __init__(self, job: str, index: int, process: Any, log: Path) -> None:
        self.name = f"{job}-node-0-{index}-{uuid.uuid4().hex[:5]}"
        self.index, self.process, self.log = index, process, log
        self.phase, self.code, self.why = "Pending", 0, ""

    def look(self) -> None:
        if self.process is None:
            return
        code = self.process.poll()
        self.phase = "Running" if code is None else "Failed" if code else "Succeeded"
        self.code = code or 0

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def json(self) -> dict[str, Any]:
        self.look()
        state: dict[str, Any] = {"running": {}}
        if self.phase == "Failed":
            state = {"terminated": {"exitCode": self.code if self.code >= 0 else 128 - self.code, "reason": "Error"}}
        if self.phase == "Pending" and self.why:
            state = {"waiting": {"reason": self.why, "message": "back-off"}}
        job = self.name.rpartition("-node-0-")[0]
        labels = {"jobset.sigs.k8s.io/jobset-name": job, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
        status = {"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        return {
            "metadata": {"name": self.name, "namespace": SPACE, "creationTimestamp": now(),
                         "labels": labels | {"batch.kubernetes.io/job-completion-index": str(self.index)}},
            "spec": {"containers": [{"name": "node", "image": "i"}]},
            "status": {"phase": self.phase, "containerStatuses": [status]},
        }  # fmt: skip


class Server:
    """The cluster: its objects, its faults, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, list[Pod]] = {}
        self.created: list[dict[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.runtimes, self.secrets = [RUNTIME], {}
        self.start: Any = self.process
        """What makes a pod's process of its command and environment; returns None for a stand-in."""
        self.busy, self.forbidden, self.drop = 0, False, 0
        self.cut = False
        """Whether every connection that brings a log breaks after its first piece."""
        self.lock = threading.RLock()

    def handle(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        self.calls[f"{method} {path.rpartition('/')[2]}" if path in (JOBS, PODS) else method] += 1
        if self.busy:
            self.busy -= 1
            raise Bad(503, "apiserver is starting")
        if self.forbidden:
            raise Bad(403, "trainjobs is forbidden")
        with self.lock:
            if path.startswith(JOBS):
                return self._job(method, path.removeprefix(JOBS).strip("/"), query, body)
            if path == PODS:
                job = re.match(r"jobset\.sigs\.k8s\.io/jobset-name=([^,]+),", query["labelSelector"])[1]
                return {
                    "apiVersion": "v1",
                    "kind": "PodList",
                    "metadata": {},
                    "items": [p.json() for p in self.pods.get(job, [])],
                }
            if path.startswith(f"{PODS}/"):
                return self.pod(path.removeprefix(f"{PODS}/")).json()
            if path.endswith("/clustertrainingruntimes"):
                return {"apiVersion": RUNTIME["apiVersion"], "kind": "ClusterTrainingRuntimeList", "metadata": {},
                        "items": self.runtimes}  # fmt: skip
            if path.endswith(("/trainingruntimes", "/clustertrainingruntimes")):
                return {"apiVersion": RUNTIME["apiVersion"], "kind": "TrainingRuntimeList", "metadata": {}, "items": []}
            for found in self.runtimes:
                if path.endswith(f"/clustertrainingruntimes/{found['metadata']['name']}"):
                    return found
        raise Bad(404, f"{path} not found")

    def pod(self, name: str) -> Pod:
        for pod in (p for pods in self.pods.values() for p in pods):
            if pod.name == name:
                return pod
        raise Bad(404, f'pods "{name}" not found')

    def _job(self, method: str, name: str, query: dict[str, str], body: Any) -> Any:
        if method == "POST" and not name:
            return self._create(body)
        if name not in self.jobs:
            raise Bad(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if method == "DELETE":
            if (body or query).get("propagationPolicy") != "Foreground":
                raise Bad(400, "this server imitates deletion in the foreground alone")
            self.jobs[name]["metadata"]["deletionTimestamp"] = now()
            threading.Thread(target=self._end, args=(name,), daemon=True).start()
        else:
            self._reconcile(name)
        return self.jobs[name]

    def _create(self, body: dict[str, Any]) -> Any:
        kept = models.TrainerV1alpha1TrainJob.from_dict(body).to_dict()
        if json.dumps(kept, sort_keys=True) != json.dumps(body, sort_keys=True):
            raise Bad(400, "strict decoding error: unknown field")
        name, trainer = body["metadata"]["name"], body["spec"]["trainer"]
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", name):
            raise Bad(422, f"{name} is no RFC 1035 label")
        if any(len(v) > 63 for v in body["metadata"].get("labels", {}).values()):
            raise Bad(422, "a label is longer than 63")
        if name in self.jobs:
            raise Bad(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        if RESERVED & {e["name"] for e in trainer.get("env", [])}:
            raise Bad(422, "must not have reserved envs")
        if body["spec"]["runtimeRef"]["name"] not in [r["metadata"]["name"] for r in self.runtimes]:
            raise Bad(422, "specified clusterTrainingRuntime must be created before the TrainJob is created")
        self.created.append(json.loads(json.dumps(body)))
        body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": SPACE, "creationTimestamp": now()}
        self.jobs[name] = body
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pods[name] = [self._pod(name, trainer, index, port) for index in range(trainer["numNodes"])]
        if self.drop:
            self.drop -= 1
            raise ConnectionAbortedError
        return body

    def _pod(self, name: str, trainer: dict[str, Any], index: int, port: int) -> Pod:
        env = {e["name"]: e.get("value") or self._secret(e["valueFrom"]["secretKeyRef"]) for e in trainer.get("env", [])}
        env |= {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
        env |= {"PET_NODE_RANK": str(index), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
        log = self.folder / f"{len(self.created)}.{index}.log"
        return Pod(name, index, self.start(trainer, env, log), log)

    def _secret(self, reference: dict[str, str]) -> str:
        return self.secrets[reference["name"]][reference["key"]]

    def process(self, trainer: dict[str, Any], env: dict[str, str], log: Path) -> Any:
        words = [sys.executable if w == "python" else w for w in (*trainer["command"], *trainer["args"])]
        with log.open("wb") as stream:
            return subprocess.Popen(words, env={**os.environ, **env}, stdout=stream, stderr=stream)

    def _end(self, name: str) -> None:
        pods = self.pods[name]
        for pod in pods:
            pod.end()
        for pod in pods:
            with suppress(subprocess.TimeoutExpired):
                if pod.process is not None:
                    pod.process.wait(60)
        with self.lock:
            self.jobs.pop(name, None)
            self.pods.pop(name, None)

    def _reconcile(self, name: str) -> None:
        pods = self.pods[name]
        for pod in pods:
            pod.look()
        if pods and all(p.phase == "Succeeded" for p in pods):
            self.condition(name, "Complete", "JobsCompleted", "jobset completed successfully")

    def condition(self, name: str, kind: str, reason: str, message: str) -> None:
        row = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        self.jobs[name]["status"] = {"conditions": [row]}

    def close(self) -> None:
        for pod in [p for pods in self.pods.values() for p in pods]:
            pod.end(signal.SIGKILL)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _serve(self) -> None:
        state: Server = self.server.state
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = dict(parse_qsl(parts.query))
        try:
            if parts.path.endswith("/log"):
                self._log(state, state.pod(parts.path.split("/")[-2]), query)
                return
            status, data = 200, state.handle(self.command, parts.path, query, json.loads(body) if body else None)
        except Bad as error:
            status, data = error.status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(error)}
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()
            return
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _log(self, state: Server, pod: Pod, query: dict[str, str]) -> None:
        """In chunks, as long as the process lives, as the API server does it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with pod.log.open("rb") as stream:
            while True:
                pod.look()
                over = query.get("follow") != "true" or pod.phase in ("Failed", "Succeeded")
                if piece := stream.read():
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                    if state.cut and query.get("follow") == "true":
                        self.close_connection = True
                        self.connection.close()
                        return
                if over:
                    break
                time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that hangs up, or a connection that was to be broken."""


@contextmanager
def trainer_server(folder: Path):
    """The running server: its state; `folder/config` is the kubeconfig that leads to it."""
    state = Server(folder)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.state = True, state
    state.url = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": state.url}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": SPACE}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }  # fmt: skip
    (folder / "config").write_text(json.dumps(config))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.close()
        server.shutdown()
        server.server_close()
        thread.join(5)
