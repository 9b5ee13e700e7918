"""The Kubernetes API for the command line: plain JSON in and out, one request after another over one connection.

Blocking, and built on the standard library: importing the asynchronous client takes longer than most commands.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from kigi.adapters.kubernetes.api_errors import decode, no_answer
from kigi.adapters.kubernetes.api_requests import (
    ACCEPT,
    JSON_PATCH,
    Manifest,
    Request,
    apply_request,
    create_request,
    delete_request,
    get_request,
    items_of,
    list_request,
    next_page_token,
    replace_request,
    terminating_object,
    watch_request,
)
from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.http_connection import connect, identity_headers
from kigi.adapters.kubernetes.resources import Resource
from kigi.errors import Conflict, NotFound, SpecInvalid, Throttled, Unauthorized, Unreachable

IDLE_S = 5.0
"""Age of an unused connection at which it is opened again: a proxy or firewall may have dropped it."""
BUSY_PAUSE_S = 0.5
"""Pause before a request is sent again after 429."""
WATCH_S = 300.0
"""Length of one watch; the API server ends it, and another one follows."""
RENEW_S = 30.0
"""Least time between two renewals of credentials that the API server refuses."""
LOG_LINES = 20_000
"""Last lines of a container's log that are read."""
LOG_LIMIT_BYTES = 16 * 2**20
"""Longest log that is read; the API server cuts it at its end, so the lines are limited, too."""


class KubeSession:
    """Use as a context manager. ``manager`` is the field manager of its writes; ``timeout_s`` bounds each answer.

    Raises what ``api_errors`` maps answers to, but SpecInvalid with a remedy for 401: the caller's own credentials.
    ``renew`` returns the endpoint with fresh credentials after an answer 401: a plugin's token is valid for minutes,
    and a command may run for hours. ``busy_s`` is the time for which a request is sent again after an answer 429:
    the API server gives it for seconds after a definition has changed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        manager: str,
        timeout_s: float = 30.0,
        renew: Callable[[], Endpoint] | None = None,
        busy_s: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._renew, self._renewed_at = renew, float("-inf")
        self._manager = manager
        self._timeout_s, self._busy_s, self._sleep = timeout_s, busy_s, sleep
        self._base = urlsplit(endpoint.server).path
        self._headers = [("Accept", ACCEPT), ("User-Agent", manager), *identity_headers(endpoint)]
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0
        self._server_time = ""

    def __enter__(self) -> KubeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object; None if it does not exist."""
        try:
            return self._send(get_request(resource, namespace, name))
        except NotFound:
            return None

    def list_all(self, resource: Resource, namespace: str | None = None) -> Iterator[dict[str, Any]]:
        """Every object of the kind that Kigi uses, page by page; nothing if the API server lacks the kind.

        ``namespace`` None: of all namespaces.
        """
        with contextlib.suppress(NotFound):
            for page in self._pages(resource, namespace):
                yield from items_of(resource, page)

    def list_version(self, resource: Resource, namespace: str | None = None) -> tuple[list[dict[str, Any]], str]:
        """Every object of the kind, and the resourceVersion from which ``watch`` misses nothing."""
        found: list[dict[str, Any]] = []
        version = ""
        for page in self._pages(resource, namespace):
            found += items_of(resource, page)
            version = str(page["metadata"]["resourceVersion"])
        return found, version

    def _pages(self, resource: Resource, namespace: str | None) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            page = self._send(list_request(resource, namespace, page_token=token))
            yield page
            token = next_page_token(page)
            if not token:
                return

    def watch(
        self, resource: Resource, namespace: str | None, *, version: str, duration_s: float = WATCH_S
    ) -> Iterator[dict[str, Any]]:
        """Each change after ``version`` as the API server sends it, until it ends the stream after ``duration_s``.

        Over a connection of its own. Raises Expired if the version is too old, and what other requests raise.
        """
        request = watch_request(resource, namespace, resource_version=version, duration_s=duration_s, bookmarks=True)
        connection = connect(self._endpoint, duration_s + self._timeout_s)
        try:
            self._put(connection, request)
            response = connection.getresponse()
            if response.status >= 300:
                decode(response.status, response.read(), str(request))
            for line in response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    decode(int(event["object"].get("code") or 500), json.dumps(event["object"]).encode(), str(request))
                yield event
        except (OSError, http.client.HTTPException) as exc:
            raise self._no_answer(exc) from exc
        finally:
            connection.close()

    def create_token(self, namespace: str, account: str, *, seconds: int) -> dict[str, Any]:
        """Token of a ServiceAccount, and its end, which may come earlier: ``status`` of a TokenRequest."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        status: dict[str, Any] = self._send(Request("POST", path, body))["status"]
        return status

    def read_bytes(self, path: str, content_type: str) -> bytes:
        """The answer at a path that is no JSON, such as a picture."""
        request = Request("GET", path)
        try:
            status, content = self._exchange(request, content_type)
        except (OSError, http.client.HTTPException) as exc:
            raise self._no_answer(exc) from exc
        if status >= 300:
            decode(status, content, str(request))
        return content

    def ask(self, path: str) -> dict[str, Any]:
        """The JSON at a path that is no object's, such as ``/version``."""
        return self._send(Request("GET", path))

    def read_log(self, namespace: str, pod: str, container: str, *, limit_bytes: int, previous: bool = False) -> bytes:
        """The last lines of a container's log, at most ``limit_bytes``; ``previous``: of the container before it."""
        query = {"container": container, "tailLines": str(LOG_LINES), "limitBytes": str(LOG_LIMIT_BYTES)}
        if previous:
            query["previous"] = "true"
        request = Request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query)
        try:
            status, text = self._exchange(request)
        except (OSError, http.client.HTTPException) as exc:
            raise self._no_answer(exc) from exc
        if status >= 300:
            decode(status, text, str(request))
        return text[-limit_bytes:]

    @property
    def server_time(self) -> str:
        """Header Date of the last answer; empty: there is none."""
        return self._server_time

    def create(self, resource: Resource, manifest: Manifest, *, dry_run: bool = False) -> dict[str, Any]:
        """A new object; Conflict if the name is taken. ``dry_run``: nothing is stored."""
        return self._write(create_request(resource, manifest, manager=self._manager, dry_run=dry_run))

    def replace(
        self,
        resource: Resource,
        manifest: Manifest,
        *,
        subresource: str = "",
        dry_run: bool = False,
        manager: str | None = None,
    ) -> dict[str, Any]:
        """Replaces the whole object, or its ``subresource``; Conflict if its resourceVersion is not the newest.

        ``dry_run``: nothing is stored. ``manager``: field manager in place of the session's own.
        """
        manager = manager or self._manager
        request = replace_request(resource, manifest, manager=manager, subresource=subresource, dry_run=dry_run)
        return self._write(request)

    def apply(self, resource: Resource, namespace: str, manifest: Manifest) -> dict[str, Any]:
        """Server-side apply that takes over fields of other managers; the object afterwards."""
        return self._write(apply_request(resource, namespace, manifest, manager=self._manager))

    def json_patch(
        self, resource: Resource, namespace: str | None, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """JSON patch; Conflict if a ``test`` operation fails, NotFound if the object is gone."""
        path = resource.path(namespace, name)
        return self._send(Request("PATCH", path, list(operations), JSON_PATCH, {"fieldManager": self._manager}))

    def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str) -> dict[str, Any] | None:
        """Deletes the object with that uid; the object while it waits for its finalizers, None if it is gone."""
        try:
            return terminating_object(self._send(delete_request(resource, namespace, name, uid=uid)))
        except (Conflict, NotFound):
            return None

    def _write(self, request: Request) -> dict[str, Any]:
        try:
            return self._send(request)
        except NotFound as exc:
            raise NotFound(f"{exc}; is Kigi installed, and does the namespace exist?") from exc

    def _send(self, request: Request) -> dict[str, Any]:
        for _ in range(int(self._busy_s / BUSY_PAUSE_S)):
            try:
                return self._send_once(request)
            except Throttled:
                self._sleep(BUSY_PAUSE_S)
        return self._send_once(request)

    def _send_once(self, request: Request) -> dict[str, Any]:
        try:
            status, text = self._exchange(request)
        except (OSError, http.client.HTTPException) as exc:
            raise self._no_answer(exc) from exc
        try:
            return decode(status, text, str(request))
        except Unauthorized as exc:
            if self._renewed():
                return self._send(request)
            raise SpecInvalid(
                f"{self._endpoint.server}: the API server does not accept the kubeconfig's credentials; log in again, "
                "or give another --context"
            ) from exc

    def _no_answer(self, exc: OSError | http.client.HTTPException) -> Unreachable:
        server = self._endpoint.server
        if isinstance(exc, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{server}: the kubeconfig's authorities do not vouch for the API server: {exc.verify_message}; is "
                "this its cluster?"
            )
        cause = (exc.strerror if isinstance(exc, OSError) else None) or exc
        return no_answer(server, cause, "; is the cluster up, and the context the right one?")

    def _exchange(self, request: Request, accept: str = "") -> tuple[int, bytes]:
        """Status and body of the answer. Drops the connection unless the answer was read to its end."""
        if time.monotonic() - self._used > IDLE_S:
            self._drop()
        if self._connection is None:
            self._connection = connect(self._endpoint, self._timeout_s)
        complete = False
        try:
            self._put(self._connection, request, accept)
            response = self._connection.getresponse()
            self._server_time = response.getheader("Date") or ""
            answer = response.status, response.read()
            complete = True
        finally:
            if not complete:
                self._drop()
        self._used = time.monotonic()
        return answer

    def _renewed(self) -> bool:
        """Reads the credentials again; False within RENEW_S of the last attempt, or if they are the same."""
        if self._renew is None or time.monotonic() - self._renewed_at < RENEW_S:
            return False
        self._renewed_at = time.monotonic()
        endpoint = self._renew()
        if endpoint == self._endpoint:
            return False
        self._drop()
        self._endpoint = endpoint
        self._headers = [("Accept", ACCEPT), ("User-Agent", self._manager), *identity_headers(endpoint)]
        return True

    def _put(self, connection: http.client.HTTPConnection, request: Request, accept: str = "") -> None:
        data = json.dumps(request.body).encode() if request.body is not None else None
        connection.putrequest(request.method, self._base + request.target, skip_accept_encoding=True)
        for name, value in self._headers:
            connection.putheader(name, accept if accept and name == "Accept" else value)
        if data is not None:
            connection.putheader("Content-Type", request.content_type)
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
