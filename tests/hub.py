"""A loopback server that speaks what `mmenc push` needs of the Hugging Face hub's API: one model repository in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """Files by repository and path, what was committed, how the repository was asked for, cards that were sent to be checked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.lfs: dict[str, bytes] = {}
        self.commits: list[dict] = []
        self.asked: dict = {}
        self.cards: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status)

    def missing(self, code: str) -> None:
        self.answer(b"{}", 404, X_Error_Code=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(b'{"error": "Invalid credentials"}', 401)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) == 4:
            name = "/".join(parts[2:])
            return self.json({"id": name, "siblings": []}) if name in self.server.repos else self.missing("RepoNotFound")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            files = self.server.repos.get("/".join(parts[2:4]))
            if files is None:
                return self.missing("RepoNotFound")
            rows = [{"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for p, d in files.items()]
            return self.json(rows)
        if parts[2:3] == ["resolve"]:
            files = self.server.repos.get("/".join(parts[:2]), {})
            if (data := files.get("/".join(parts[4:]))) is None:
                return self.missing("EntryNotFound")
            commit = f"{len(self.server.commits):040x}"
            return self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit)
        return self.json({"name": "tester", "type": "user"})

    def do_POST(self) -> None:
        data, path = self.body(), self.path.strip("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(b'{"error": "Invalid credentials"}', 401)
        if path == "api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.asked = asked
            if name in self.server.repos:
                return self.json({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            self.server.repos[name] = {}
            return self.json({"url": f"{self.server.url}/{name}"})
        if path == "api/validate-yaml":
            self.server.cards.append(json.loads(data)["content"])
            return self.json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            rows = [self.upload(o) for o in json.loads(data)["objects"]]
            return self.json({"transfer": "basic", "objects": rows})
        if "/preupload/" in path:
            names = [f["path"] for f in json.loads(data)["files"]]
            kinds = {n: "lfs" if n.endswith((".safetensors", ".onnx")) else "regular" for n in names}
            return self.json({"files": [{"path": n, "uploadMode": k, "shouldIgnore": False} for n, k in kinds.items()]})
        if "/commit/" in path:
            return self.commit("/".join(path.split("/")[2:4]), data)
        return self.missing("unknown")

    def upload(self, row: dict) -> dict:
        href = f"{self.server.url}/lfs/{row['oid']}"
        return {**row, "actions": {"upload": {"href": href}}} if row["oid"] not in self.server.lfs else row

    def do_PUT(self) -> None:
        data, oid = self.body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.lfs[oid] = data
        self.answer(b"")

    def commit(self, name: str, data: bytes) -> None:
        files, lines = dict(self.server.repos[name]), [json.loads(line) for line in data.splitlines() if line]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.repos[name] = files
        self.server.commits.append({"keys": [line["key"] for line in lines], "summary": lines[0]["value"]["summary"]})
        oid = f"{len(self.server.commits):040x}"
        self.json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
