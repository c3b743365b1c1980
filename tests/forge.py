"""A loopback server that speaks what `mmenc retrain post` needs of GitHub's and GitLab's APIs: comments of one request."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "forge-secret-0123456789"
BOT = "github-actions[bot]"


class Forge(ThreadingHTTPServer):
    """Comments in order, every request that came, and faults to answer with before it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict] = []
        self.asked: list[str] = []
        self.faults: list[int | str] = []
        self.pulls: list[dict] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, body: str, author: str) -> dict:
        comment = {"id": 100 + len(self.comments), "body": body, "user": {"login": author}, "author": {"username": author}}
        self.comments.append(comment)
        return comment

    def github(self, **more: str) -> dict[str, str]:
        """The variables that a job has."""
        return {"GITHUB_API_URL": self.url, "GITHUB_REPOSITORY": "team/encoder", "GITHUB_TOKEN": TOKEN, **more}

    def gitlab(self, **more: str) -> dict[str, str]:
        known = {"GITLAB_CI": "true", "CI_API_V4_URL": self.url, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "7"}
        return {**known, "GITLAB_TOKEN": TOKEN, **more}


class Handler(BaseHTTPRequestHandler):
    server: Forge
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def json(self, value: object, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"null")
        at = urlsplit(self.path)
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.faults:
            fault = self.server.faults.pop(0)
            if isinstance(fault, str):
                return self.json({}, 302, Location=fault)
            if fault == 0:  # the write arrives, the answer does not
                self.answer(at, body)
                self.close_connection = True
                return None
            return self.json({"message": "fault"}, fault)
        given = self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.headers.get("PRIVATE-TOKEN") == TOKEN
        if not given:
            return self.json({"message": "Bad credentials"}, 401)
        return self.json(*self.answer(at, body))

    def answer(self, at, body) -> tuple[object, int]:
        here = self.server
        if at.path == "/user":
            return {"username": "robot"}, 200
        if re.fullmatch(r"/projects/5/repository/commits/\w+/merge_requests", at.path):
            return [{"iid": p["number"], "state": "merged" if p["merged_at"] else "opened"} for p in here.pulls], 200
        if re.fullmatch(r"/repos/team/encoder/commits/\w+/pulls", at.path):
            return here.pulls, 200
        listed = re.fullmatch(r"(/repos/team/encoder/issues/7/comments|/projects/5/merge_requests/7/notes)", at.path)
        if listed and self.command == "GET":
            asked = parse_qs(at.query)
            size, page = int(asked["per_page"][0]), int(asked["page"][0])
            return here.comments[(page - 1) * size : page * size], 200
        if listed and self.command == "POST":
            return here.add(body["body"], BOT if "repos" in at.path else "robot"), 201
        one = re.fullmatch(r"/(repos/team/encoder/issues/comments|projects/5/merge_requests/7/notes)/(\d+)", at.path)
        if one and self.command == ("PATCH" if "repos" in at.path else "PUT"):
            comment = next(c for c in here.comments if c["id"] == int(one[2]))
            comment["body"] = body["body"]
            return comment, 200
        return {"message": "Not Found"}, 404

    do_GET = do_POST = do_PATCH = do_PUT = handle_one


@contextmanager
def running() -> Iterator[Forge]:
    server = Forge()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
