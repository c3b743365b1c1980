"""Posts a Markdown file as a comment on a pull or merge request and keeps it up to date: one comment per kind, never a second.

Decisions: standard library only, so that the job that holds the token needs no installation and runs no code of the pull request.
The comment is found again by a marker in its first line and by its author; it is edited only if its text differs. The
token comes from the environment, goes into one header and nowhere else, redirects are not followed (urllib would hand the
header on), and the API's address must be https or this machine. A broken connection is tried again after looking whether
the comment is there.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mmenc.errors import Refused

LONGEST = {"github": 65_536, "gitlab": 1_000_000}
"""Characters of a comment."""
PAGE, PAGES = 100, 50
TRIES, PAUSE = 4, 1.0
"""Attempts, and seconds before the second, doubled each time."""
BOT = "github-actions[bot]"
"""Who comments with the token of a GitHub workflow; another account is named in MMENC_CI_USER."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Busy(Exception):
    """No answer, or one that may change."""


@dataclass(frozen=True)
class Service:
    """Where comments live, and how they are spoken of there."""

    kind: str
    api: str
    comments: str
    """Path of the list of comments."""
    header: tuple[str, str]
    author: str
    """Whose comments may be edited; empty: ask the service who we are."""

    def one(self, identity: object) -> tuple[str, str]:
        """Method and path that edit one comment."""
        if self.kind == "gitlab":
            return "PUT", f"{self.comments}/{identity}"
        repository = self.comments.rpartition("/issues/")[0]
        return "PATCH", f"{repository}/issues/comments/{identity}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One exchange; Refused says what the service answered, Busy that it may answer otherwise later."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}{path}", data=data, method=method)  # noqa: S310 (checked by _address)
        request.add_header(*self.header)
        request.add_header("Accept", "application/json")
        request.add_header("Content-Type", "application/json")
        request.add_header("User-Agent", "mmenc")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            where = f"{method} {path}: the service answers {error.code}"
            if error.code >= 500 or error.code == 429:
                raise Busy(where) from None
            hints = {
                401: "the token is wrong or has expired",
                403: "the token may not comment (permission `pull-requests: write`)",
            }
            hints |= {404: "no such request or repository, or the token may not see it"}
            raise Refused(f"{where}; {hints.get(error.code, error.reason)}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Busy(f"{method} {path}: no answer ({type(error).__name__})") from None


def _need(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise Refused(f"{name} is not set; a CI service sets it, see docs/retraining.md")
    return env[name]


def _address(url: str) -> str:
    found = urllib.parse.urlsplit(url)
    if found.scheme != "https" and not (found.scheme == "http" and found.hostname in ("127.0.0.1", "localhost", "::1")):
        raise Refused(f"{url}: expected an https:// address; a token does not travel in clear")
    return url.rstrip("/")


def service(env: Mapping[str, str], number: str = "") -> Service | None:
    """Where this job's request is, from the variables of GitHub Actions or GitLab CI; None where there is no request."""
    if env.get("GITLAB_CI"):
        return _gitlab(env, number)
    repository, api = _need(env, "GITHUB_REPOSITORY"), _address(_need(env, "GITHUB_API_URL"))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise Refused(f"GITHUB_REPOSITORY is {repository!r}; expected owner/name")
    token = ("Authorization", f"Bearer {_need(env, 'GITHUB_TOKEN')}")
    author = env.get("MMENC_CI_USER") or BOT
    at = Service("github", api, f"/repos/{repository}/issues/0/comments", token, author)
    number = number or _of_event(env) or _of_commit(at, repository, env.get("GITHUB_SHA", ""))
    if not number:
        return None
    return Service("github", api, f"/repos/{repository}/issues/{_number(number)}/comments", token, author)


def _gitlab(env: Mapping[str, str], number: str) -> Service | None:
    project, api = _number(_need(env, "CI_PROJECT_ID")), _address(_need(env, "CI_API_V4_URL"))
    token, author = ("PRIVATE-TOKEN", _need(env, "GITLAB_TOKEN")), env.get("MMENC_CI_USER", "")
    number = number or env.get("CI_MERGE_REQUEST_IID", "")
    if not number and (sha := env.get("CI_COMMIT_SHA", "")):
        at = Service("gitlab", api, f"/projects/{project}", token, author)
        found = _patiently(lambda: at.ask("GET", f"/projects/{project}/repository/commits/{sha}/merge_requests"))
        number = next((str(row["iid"]) for row in found or [] if row.get("state") == "merged"), "")
    if not number:
        return None
    return Service("gitlab", api, f"/projects/{project}/merge_requests/{_number(number)}/notes", token, author)


def _number(text: str) -> str:
    if not text.isdigit():
        raise Refused(f"{text!r}: expected the number of a pull or merge request")
    return text


def _of_event(env: Mapping[str, str]) -> str:
    """The pull request that started the workflow."""
    try:
        event = json.loads(Path(env.get("GITHUB_EVENT_PATH", "")).read_text(encoding="utf-8"))
        return str(event["pull_request"]["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _of_commit(at: Service, repository: str, sha: str) -> str:
    """The pull request that a commit on the main branch came from."""
    if not sha:
        return ""
    found = _patiently(lambda: at.ask("GET", f"/repos/{repository}/commits/{sha}/pulls"))
    merged = [row for row in found or [] if row.get("merged_at")]
    return str(merged[0]["number"]) if merged else ""


def _patiently(action: Callable[[], Any]) -> Any:
    for attempt in range(TRIES):
        try:
            return action()
        except Busy as busy:
            if attempt == TRIES - 1:
                raise Refused(f"{busy}, {TRIES} times") from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def _mine(at: Service, marker: str) -> Any:
    """Our comment with this marker, None if there is none yet."""
    author = at.author or _patiently(lambda: at.ask("GET", "/user"))["username"]
    who = ("author", "username") if at.kind == "gitlab" else ("user", "login")
    for page in range(1, PAGES + 1):
        path = f"{at.comments}?per_page={PAGE}&page={page}"
        rows = _patiently(partial(at.ask, "GET", path))
        for row in rows:
            if str(row["body"]).startswith(marker) and (row.get(who[0]) or {}).get(who[1]) == author:
                return row
        if len(rows) < PAGE:
            break
    return None


def marker(kind: str) -> str:
    """The first line of a comment of this kind; not shown."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", kind):
        raise Refused(f"{kind!r}: expected a word, such as plan")
    return f"<!-- mmenc:{kind} -->"


def cut(text: str, most: int) -> str:
    """A text that a service takes; what is left out is said. A cut inside a folded part or a code block is closed."""
    if len(text) <= most:
        return text
    end = "\n\n…\n\n**Cut here: the whole text is among the files of the CI job.**\n"
    head = text[: most - len(end) - 100]
    head = head[: head.rfind("\n")]
    fence = "\n```" * (head.count("\n```") % 2)
    return head + fence + "\n</details>" * (head.count("<details>") - head.count("</details>")) + end


def post(file: Path, kind: str, env: Mapping[str, str], number: str = "") -> str:
    """Make or update the comment; says what was done."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{file}: cannot be read ({error.strerror})") from None
    at, mark = service(env, number), marker(kind)
    if at is None:
        return "no pull request belongs to this; nothing posted"
    body = cut(f"{mark}\n{text}", LONGEST[at.kind])

    def once() -> str:
        there = _mine(at, mark)
        if there is None:
            made = at.ask("POST", at.comments, {"body": body})
            return f"comment {made['id']} posted"
        if str(there["body"]).replace("\r\n", "\n").strip() == body.strip():
            return f"comment {there['id']} says so already"
        at.ask(*at.one(there["id"]), {"body": body})
        return f"comment {there['id']} updated"

    return str(_patiently(once))


def main(words: list[str]) -> int:
    """`python -m mmenc.retrain.post KIND FILE [NUMBER]`: the same as `mmenc retrain post`, with nothing installed."""
    import sys

    try:
        print(post(Path(words[1]), words[0], os.environ, *words[2:3]))
    except (Refused, IndexError) as error:
        print(f"mmenc: {error if isinstance(error, Refused) else 'expected KIND FILE [NUMBER]'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
