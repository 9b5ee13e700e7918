"""The Kubernetes API for one command after another: plain JSON in and out over one connection, blocking.

For the command line, which ends when a concurrent client would have been imported. The operator's is ``kube``.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from kigi.adapters.kubernetes.api_errors import ACCEPT, APPLY, JSON, PAGE, translate
from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.resources import Resource
from kigi.errors import Conflict, SpecInvalid, Unreachable, Waiting

IDLE_S = 5.0
"""A connection that was not used for so long is made anew: what stands between may have dropped it."""

RENEW_S = 30.0
"""Least time between two renewals of credentials that the API server refuses."""

Manifest = Mapping[str, Any]


class KubeSession:
    """Use as a context manager. ``manager`` is the field manager of what is written; ``timeout_s`` bounds an answer.

    ``renew`` gives the endpoint anew after an answer 401: a plugin's token lives for minutes, a command for hours.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        manager: str,
        timeout_s: float = 30.0,
        renew: Callable[[], Endpoint] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._renew, self._renewed_at = renew, float("-inf")
        self._manager = manager
        self._timeout_s = timeout_s
        self._base = urlsplit(endpoint.server).path
        self._headers = [("Accept", ACCEPT), ("User-Agent", manager), *identity_headers(endpoint)]
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def __enter__(self) -> KubeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object; None if there is none."""
        return self._send("GET", resource.path(namespace, name))

    def list_all(self, resource: Resource, namespace: str | None = None) -> Iterator[dict[str, Any]]:
        """Every object of the kind that Kigi looks at; none if the API server has no such kind.

        ``namespace`` None: of all.
        """
        query = {"limit": str(PAGE), **({"labelSelector": resource.selector} if resource.selector else {})}
        while True:
            answer = self._send("GET", resource.path(namespace), query=query)
            if answer is None:
                return
            for item in answer.get("items") or ():
                item["kind"], item["apiVersion"] = resource.kind, resource.api_version
                yield item
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def create(self, resource: Resource, manifest: Manifest, *, dry_run: bool = False) -> dict[str, Any]:
        """A new object; Conflict if the name is taken. ``dry_run``: the API server says what it would do."""
        query = {"fieldManager": self._manager, **({"dryRun": "All"} if dry_run else {})}
        return self._found("POST", resource.path(manifest["metadata"].get("namespace")), manifest, JSON, query)

    def replace(self, resource: Resource, manifest: Manifest) -> dict[str, Any]:
        """The whole object; Conflict if ``metadata.resourceVersion`` is not the newest."""
        meta = manifest["metadata"]
        path = resource.path(meta.get("namespace"), meta["name"])
        return self._found("PUT", path, manifest, JSON, {"fieldManager": self._manager})

    def apply(self, resource: Resource, namespace: str, manifest: Manifest) -> dict[str, Any]:
        """Server-side apply that takes fields over; the object as it then is."""
        query = {"fieldManager": self._manager, "force": "true"}
        return self._found("PATCH", resource.path(namespace, manifest["metadata"]["name"]), manifest, APPLY, query)

    def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str) -> dict[str, Any] | None:
        """Deletes the object of that uid; as it waits for its finalizers, or None if it is gone."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            answer = self._send("DELETE", resource.path(namespace, name), body=body)
        except Conflict:
            return None
        if answer is None or answer.get("kind") == "Status" or not answer["metadata"].get("finalizers"):
            return None
        return answer

    # The wire.

    def _found(self, method: str, path: str, body: Any, content_type: str, query: Mapping[str, str]) -> dict[str, Any]:
        answer = self._send(method, path, body=body, content_type=content_type, query=query)
        if answer is None:
            raise Waiting(
                f"{method} {path}: the API server does not have it; is Kigi installed, and the namespace there?"
            )
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """The answer's JSON; None for 404."""
        url = self._base + quote(path, safe="/", errors="replace") + (f"?{urlencode(query)}" if query else "")
        data = json.dumps(body).encode() if body is not None else None
        try:
            status, text = self._exchange(method, url, data, content_type)
        except ssl.SSLCertVerificationError as exc:
            raise Unreachable(
                f"{self._endpoint.server}: the kubeconfig's authorities do not vouch for the API server: "
                f"{exc.verify_message}; is this its cluster?"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            why = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
            raise Unreachable(
                f"{self._endpoint.server}: the API server does not answer: {why}; is the cluster up, and the context "
                "the right one?"
            ) from exc
        try:
            answer: dict[str, Any] = json.loads(text) if text else {}
        except ValueError:
            answer = {"message": text[:500].decode(errors="replace")}
        if status < 300:
            return answer
        if status == 404:
            if method == "POST":
                raise Waiting(f"{method} {path}: {answer.get('message', 'not found')}")
            return None
        if status == 401:
            if self._renewed():
                return self._send(method, path, body=body, content_type=content_type, query=query)
            raise SpecInvalid(
                f"{self._endpoint.server}: the API server does not accept the kubeconfig's credentials; log in again, "
                "or give another --context"
            )
        raise translate(status, answer, f"{method} {path}")

    def _exchange(self, method: str, url: str, data: bytes | None, content_type: str) -> tuple[int, bytes]:
        if time.monotonic() - self._used > IDLE_S:
            self._drop()
        if self._connection is None:
            self._connection = connect(self._endpoint, self._timeout_s)
        try:
            self._connection.putrequest(method, url, skip_accept_encoding=True)
            for name, value in self._headers:
                self._connection.putheader(name, value)
            if data is not None:
                self._connection.putheader("Content-Type", content_type)
                self._connection.putheader("Content-Length", str(len(data)))
            self._connection.endheaders(data)
            response = self._connection.getresponse()
            answer = response.status, response.read()
        except BaseException:
            self._drop()
            raise
        self._used = time.monotonic()
        return answer

    def _renewed(self) -> bool:
        """Reads the credentials again; False if that was tried a moment ago, or gave the same ones."""
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

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def identity_headers(endpoint: Endpoint) -> list[tuple[str, str]]:
    """What tells the API server who asks, and for whom."""
    headers = list(endpoint.impersonated)
    if endpoint.token:
        headers.append(("Authorization", f"Bearer {endpoint.token}"))
    elif endpoint.password:
        pair = base64.b64encode(":".join(endpoint.password).encode()).decode()
        headers.append(("Authorization", f"Basic {pair}"))
    return headers


def trust(endpoint: Endpoint) -> ssl.SSLContext:
    """Whom to believe, and what to show: the TLS side of an endpoint. Raises SpecInvalid for damaged PEM."""
    try:
        context = ssl.create_default_context(cadata=endpoint.ca.decode() if endpoint.ca else None)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as exc:
        raise SpecInvalid("kubeconfig: certificate-authority is no PEM certificate; write it anew") from exc
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.certificate is not None:
        # OpenSSL takes them from a file alone.
        handle, path = tempfile.mkstemp(prefix="kigi-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"\n".join(endpoint.certificate))
            context.load_cert_chain(path)
        except ssl.SSLError as exc:
            raise SpecInvalid("kubeconfig: client-certificate and client-key are no pair of PEM; log in again") from exc
        finally:
            with suppress(OSError):
                os.unlink(path)
    return context


def connect(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    """A connection, not opened yet, through the proxy that the kubeconfig or the environment names."""
    server = urlsplit(endpoint.server)
    host = server.hostname or ""
    port = server.port or (443 if server.scheme == "https" else 80)
    proxy = proxy_of(endpoint, host)
    reached = (proxy.hostname or "", proxy.port or 80) if proxy is not None else (host, port)
    connection: http.client.HTTPConnection
    if server.scheme == "https":
        connection = _Secure(reached, trust(endpoint), endpoint.server_name or host, timeout_s)
    else:
        connection = http.client.HTTPConnection(*reached, timeout=timeout_s)
    if proxy is not None:
        headers = {}
        if proxy.username:
            pair = f"{proxy.username}:{proxy.password or ''}"
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        connection.set_tunnel(host, port, headers)
    return connection


def proxy_of(endpoint: Endpoint, host: str) -> Any:
    """The HTTP proxy as a split URL, or None; raises SpecInvalid for one of another kind."""
    url = endpoint.proxy
    if url is None and any(name.lower().endswith("_proxy") for name in os.environ):
        from urllib.request import getproxies, proxy_bypass

        if not proxy_bypass(host):
            url = getproxies().get(urlsplit(endpoint.server).scheme)
    if url is None:
        return None
    proxy = urlsplit(url if "//" in url else f"http://{url}")
    if proxy.scheme != "http":
        raise SpecInvalid(f"proxy {proxy.scheme}://{proxy.hostname}: kigi speaks with HTTP proxies alone")
    return proxy


class _Secure(http.client.HTTPConnection):
    """TLS to a server whose certificate may have another name than its address."""

    default_port = 443

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, server_name: str, timeout_s: float) -> None:
        super().__init__(*address, timeout=timeout_s)
        self._tls, self._server_name = context, server_name

    def connect(self) -> None:
        """Opens it; through the proxy, if a tunnel is set."""
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)
