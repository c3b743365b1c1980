"""Where the cluster is and what lets us in, for `mmenc submit` and doctor; standard library only, no kfp.

Decisions: the address is always said (`--host`, $KF_PIPELINES_ENDPOINT, or that of the pod's own cluster): a run must not
start wherever kubectl happens to point. Secrets come from files or the environment, never from the command line, which
every user of the machine can read; they are kept out of `repr`. A token's file is read anew for every request, because
the kubelet and login tools renew it while a run takes days.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmenc.errors import Refused

ENDPOINT, TOKEN, COOKIES = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES"
NAMESPACE = "KF_PIPELINES_NAMESPACE"
POD_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 (the name of a variable that holds a path)
POD_TOKEN_PATH = Path("/var/run/secrets/kubeflow/pipelines/token")
POD_NAMESPACE_PATH = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
HEALTH = "/apis/v2beta1/healthz"
PATIENCE = 3.0
"""Seconds that doctor waits for an answer; twice this and a little for all it asks."""


@dataclass(frozen=True)
class Access:
    """An address, and at most one credential for it."""

    host: str
    token_file: Path | None = None
    token: str = field(default="", repr=False)
    cookies: str = field(default="", repr=False)

    @property
    def credential(self) -> str:
        """What was sent, in words that do not show it."""
        if self.token_file:
            return f"the token in {self.token_file}"
        return f"the token in ${TOKEN}" if self.token else "the cookies" if self.cookies else "a request without credentials"

    def headers(self) -> dict[str, str]:
        """The headers of a request."""
        token = secret(self.token_file) if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {"Cookie": self.cookies} if self.cookies else {}


def secret(path: Path) -> str:
    """What a secret's file holds."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: the credential cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not text or not text.replace("\t", "").splitlines()[0].isprintable():
        raise Refused(f"{path}: is empty or not text; expected a token or cookies")
    return text


def _token(text: str, where: str) -> str:
    if len(text.split()) != 1 or not text.isascii():
        raise Refused(f"{where}: expected one token without blanks, on one line")
    return text


def _cookies(text: str) -> str:
    """A `Cookie` header from itself, or from a cookies.txt (`curl -c`): seven fields a line, split by tabs."""
    rows = [line.removeprefix("#HttpOnly_").split("\t") for line in text.splitlines()]
    pairs = [f"{row[5]}={row[6]}" for row in rows if len(row) == 7]
    if not pairs and (len(rows) != 1 or "=" not in text):
        raise Refused("cookies: expected one line NAME=VALUE, or a cookies.txt as `curl -c` writes it")
    return "; ".join(pairs) or text.removeprefix("Cookie:").strip()


def address(text: str) -> str:
    """The API's base from what people paste: a trailing slash and the UI's `#/runs` go."""
    base = text.strip().partition("#")[0].rstrip("/")
    parts = urllib.parse.urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"address {base!r}: expected http://… or https://…, such as http://localhost:8080")
    if parts.username or parts.password:
        raise Refused("the address holds a user or a password, which would be printed; use --token-file or --cookies-file")
    return base


def resolve(
    host: str = "", token_file: Path | None = None, cookies_file: Path | None = None, env: Mapping[str, str] = os.environ
) -> Access | None:
    """What the options, the environment and the pod say; None without any address. Options beat the environment."""
    host = host or env.get(ENDPOINT, "") or (IN_CLUSTER if env.get("KUBERNETES_SERVICE_HOST") else "")
    if not host:
        return None
    base = address(host)
    if token_file and cookies_file:
        raise Refused("--token-file and --cookies-file: one of them lets you in, not both")
    if token_file:
        _token(secret(token_file), str(token_file))
        return Access(base, token_file=token_file)
    if cookies_file:
        return Access(base, cookies=_cookies(secret(cookies_file)))
    if env.get(TOKEN):
        return Access(base, token=_token(env[TOKEN].strip(), f"${TOKEN}"))
    if env.get(COOKIES):
        return Access(base, cookies=_cookies(env[COOKIES].strip()))
    pod = Path(env.get(POD_TOKEN) or POD_TOKEN_PATH)
    return Access(base, token_file=pod) if pod.is_file() else Access(base)


def own_namespace(env: Mapping[str, str] = os.environ) -> str:
    """The namespace that is meant where none is said: $KF_PIPELINES_NAMESPACE, or the pod's own."""
    return env.get(NAMESPACE) or (secret(POD_NAMESPACE_PATH) if POD_NAMESPACE_PATH.is_file() else "")


def refusal(status: int, access: Access, namespace: str = "", detail: str = "") -> str:
    """One sentence for an answer of the server: what it means and what mends it."""
    said = f": {detail}" if detail else ""
    if status == 401:
        mend = f"give --token-file FILE or ${TOKEN}, or --cookies-file FILE or ${COOKIES} where dex asks for a login"
        if access.credential != Access("").credential:
            mend = "it is wrong or has expired, fetch a new one"
        return f"{access.host} refuses {access.credential} (401); {mend}"
    if status == 403:
        where = f"in namespace {namespace}" if namespace else "there (no --namespace was given)"
        return f"{access.host} does not allow this with {access.credential} {where} (403){said}; ask for the role kubeflow-edit"
    if status == 404:
        return f"{access.host} is no Kubeflow Pipelines address (404); expected that of its UI, such as http://localhost:8080"
    return f"{access.host} answers {status}{said}"


def web_page(access: Access) -> str:
    """The sentence for a page where JSON was expected: a login, or another site."""
    wants = "--cookies-file or --token-file" if access.credential == Access("").credential else "a fresh credential"
    return f"{access.host} answers with a web page, not the API; a login (dex) wants {wants}, any other page is a wrong address"


def _get(access: Access, path: str) -> Any:
    request = urllib.request.Request(access.host + path, headers={"Accept": "application/json", **access.headers()})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as KFP's client, which knows no proxy either
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read(1_000_000))
    except ValueError:
        raise Refused(web_page(access)) from None


def _examine(access: Access, namespace: str) -> str:
    try:
        health = _get(access, HEALTH)
        health = health if isinstance(health, dict) else {}
        told = health.get("apiServerTagName") or health.get("tag_name")
        several = bool(health.get("multi_user"))
        found = f"{access.host}: API v2beta1, {f'version {told}' if told else 'version not told'}, "
        found += "multi-user" if several else "single-user"
        if several and not namespace:
            return f"{found}; credentials not tried, that needs a namespace"
        query = {"page_size": 1} | ({"namespace": namespace} if several else {})  # with one user the API refuses a namespace
        _get(access, "/apis/v2beta1/experiments?" + urllib.parse.urlencode(query))
    except urllib.error.HTTPError as error:
        raise Refused(refusal(error.code, access, namespace)) from None
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"{access.host} does not answer ({getattr(error, 'reason', None) or error})") from None
    return f"{found}; accepts {access.credential}"


def examine(env: Mapping[str, str] = os.environ) -> tuple[bool, str, str]:
    """Doctor's check: ok, what was found, the remedy. In a thread of its own: looking up a name knows no time-out."""
    try:
        access = resolve(env=env)
    except Refused as error:
        return False, str(error), f"export {ENDPOINT}=http://localhost:8080"
    if access is None:
        return True, f"none configured; `export {ENDPOINT}=http://localhost:8080` names one", ""
    answer: list[tuple[bool, str, str]] = []

    def ask() -> None:
        try:
            answer.append((True, _examine(access, own_namespace(env)), ""))
        except Refused as error:
            answer.append((False, str(error), f"mend ${ENDPOINT} and its credential (docs/kubeflow.md), or unset it"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE + 1)
    late = (False, f"{access.host} gave no answer in {2 * PATIENCE + 1:g} s", f"check ${ENDPOINT}, or unset it")
    return answer[0] if answer else late
