"""Kubeflow Pipelines' API: KFP's client brings the credentials, every call goes through `ask` or `ensure`.

Decisions: kfp.Client's own methods have no time-outs, print, repeat nothing but a health check (with tracebacks) and hide
fields, so the generated API is called directly. Reads are repeated after 5xx, dropped connections and silence; a write is
repeated only together with the question whether it already happened, so that a lost answer never starts a second run.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kfp_server_api
import urllib3
from kfp.client import Client, set_volume_credentials
from kfp_server_api.exceptions import ApiException
from urllib3 import exceptions as http

from mmenc.access import Access, refusal, secret, web_page
from mmenc.errors import Refused

PATIENCE = (5, 60)
"""Seconds to connect, and between two pieces of an answer."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each repetition of a call that may yet succeed."""


class Unsure(Refused):
    """No answer, or one that may pass; a write may or may not have happened."""


class Away(Unsure):
    """Nobody listens; not worth repeating before the first contact, where the address is likely wrong."""


class Conflict(Refused):
    """Somebody else made it in between (409)."""


class _TokenFile(set_volume_credentials.ServiceAccountTokenVolumeCredentials):
    """KFP's token from a file, read before each request; one that is gone is a sentence."""

    def _get_token(self) -> str:
        return secret(Path(self._token_path))


class _Quiet(Client):
    """KFP's client without its health check on construction, whose answer would also go to a file in the home folder.

    urllib3 repeats nothing either: three silent repetitions of a minute each would hide behind every pause of ours.
    """

    def get_kfp_healthz(self, sleep_duration: int = 5) -> kfp_server_api.V2beta1GetHealthzResponse:  # noqa: ARG002
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)

    def _load_config(self, *words: Any, **named: Any) -> kfp_server_api.Configuration:
        config = super()._load_config(*words, **named)
        config.retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)
        return config


class Api:
    """The generated services (`api.of.runs.run_service_get_run`), and the two ways to call them."""

    def __init__(self, access: Access) -> None:
        self.access, self.namespace, self.met = access, "", False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it needs KFP 2, which the health check finds out
            self.of: Any = _Quiet(
                host=access.host,
                existing_token=access.token or None,
                cookies=access.cookies or None,
                credentials=_TokenFile(str(access.token_file)) if access.token_file else None,
                ssl_ca_cert=os.environ.get(
                    "SSL_CERT_FILE"
                ),  # as everything else that speaks TLS; KFP's client knows certifi alone
            )

    def greet(self) -> bool:
        """The first contact: whether this is Kubeflow Pipelines at all, and whether it has several users."""
        health = self.ask(self.of.healthzs.healthz_service_get_healthz)
        self.met = True
        return bool(health.multi_user)

    def ask(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call that may be repeated: it changes nothing, or to the same."""
        for pause in (*PAUSES, None):
            try:
                return self._once(function, *args, **options)
            except Unsure as error:
                if pause is None or (isinstance(error, Away) and not self.met):
                    raise
                time.sleep(pause)
        return None

    def ensure(self, find: Callable[[], Any], make: Callable[[], Any]) -> Any:
        """What `find` finds, else what `make` makes; after a doubtful answer it looks again before it makes again."""
        for pause in (*PAUSES, None):
            if found := find():
                return found
            try:
                return make()
            except (Unsure, Conflict):
                if pause is None:
                    raise
                time.sleep(pause)
        return None

    def make(self, function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
        """A call that changes something, for `ensure`."""
        return lambda: self._once(function, *args, **options)

    def named(self, function: Callable[..., Any], field: str, name: str, *args: Any, **options: Any) -> list[Any]:
        """Everything of a list call whose display name is `name`; the server filters, `field` holds the rows.

        The filter is quoted once more than HTTP asks for, because the server unquotes it once more (parseAPIFilter).
        """
        predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
        options |= {"filter": quote(json.dumps({"predicates": [predicate]})), "page_size": 100}
        answer = self.ask(function, *args, **{k: v for k, v in options.items() if v != ""})
        return [row for row in getattr(answer, field) or [] if row.display_name == name]

    def _once(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        host = self.access.host
        try:
            answer = function(*args, **options, _request_timeout=PATIENCE)
        except ApiException as error:
            raise self._answered(error) from None
        except http.MaxRetryError as error:
            raise _unreachable(host, error.reason) from None
        except (http.LocationParseError, http.LocationValueError):
            raise Refused(f"{host} is no address") from None
        except http.HTTPError as error:
            raise _unreachable(host, error) from None
        kind = function.__self__.api_client.last_response.urllib3_response.headers.get("content-type", "")
        if "json" not in kind:
            raise Refused(web_page(self.access))
        return answer

    def _answered(self, error: ApiException) -> Refused:
        status, detail = int(error.status or 0), _message(error.body)
        if status >= 500 or status == 429:
            return Unsure(f"{refusal(status, self.access, detail=detail)}; it did so {len(PAUSES) + 1} times, try again later")
        if status == 409:
            return Conflict(refusal(status, self.access, detail=detail))
        if status == 404 and self.met:  # the API's own: something in it is missing, such as a run that was deleted
            return Refused(f"{self.access.host}: {detail or 'not found'}")
        return Refused(refusal(status, self.access, self.namespace, detail))


def _message(body: Any) -> str:
    """The server's own words, from JSON in one of its two forms; nothing from a proxy's page."""
    try:
        data = json.loads(body)
    except (TypeError, ValueError):
        return ""
    words = [data.get(k) for k in ("message", "error_message", "error")] if isinstance(data, dict) else []
    text = next((w for w in words if isinstance(w, str) and w), "")
    return " ".join(text.split())[:500]


def _unreachable(host: str, reason: Exception | None) -> Refused:
    name = urllib3.util.parse_url(host).host
    if isinstance(reason, http.NameResolutionError):
        return Refused(f"{host}: no such host as {name}; check --host or $KF_PIPELINES_ENDPOINT")
    if isinstance(reason, http.SSLError):
        return Refused(f"{host}: TLS failed ({reason}); expected a certificate that this machine trusts, or http://")
    if isinstance(reason, http.NewConnectionError):  # before the time-out, of which it is a kind
        return Away(f"{host} cannot be reached ({str(reason).rpartition('] ')[2]}); is the port-forward over, or a VPN?")
    if isinstance(reason, http.ConnectTimeoutError):
        return Away(f"{host} did not answer within {PATIENCE[0]} s; is it behind a VPN?")
    if isinstance(reason, http.ReadTimeoutError):
        return Unsure(f"{host} took the request but sent nothing for {PATIENCE[1]} s; try again later")
    return Unsure(f"{host} broke the connection off ({type(reason).__name__}); try again later")
