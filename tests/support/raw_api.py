"""A plain HTTP client of the API server, for tests of exact refusals, events and identities."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: HTTP status code and decoded body."""

    code: int
    body: Object

    @property
    def message(self) -> str:
        """Message of a refusal; empty for an object."""
        return str(self.body.get("message", "")) if self.body.get("kind") == "Status" else ""

    def object(self) -> Object:
        """The body; AssertionError if the answer is not a success."""
        assert 200 <= self.code < 300, f"{self.code}: {self.message or self.body}"
        return self.body


class RawApi:
    """Client with one identity: that of the kubeconfig, or of a bearer token."""

    def __init__(self, kubeconfig: Path, token: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
        self._where = urlsplit(cluster["server"])
        self._tls = self._make_tls(cluster, {} if token else user) if self._where.scheme == "https" else None
        self._token = token or user.get("token")

    @staticmethod
    def _make_tls(cluster: Object, user: Object) -> ssl.SSLContext:
        with tempfile.TemporaryDirectory() as directory:

            def file_of(source: Object, key: str) -> str | None:
                if f"{key}-data" in source:
                    path = Path(directory) / key
                    path.write_bytes(base64.b64decode(source[f"{key}-data"]))
                    return str(path)
                value: str | None = source.get(key)
                return value

            tls = ssl.create_default_context(cafile=file_of(cluster, "certificate-authority"))
            if certificate := file_of(user, "client-certificate"):
                tls.load_cert_chain(certificate, file_of(user, "client-key"))
            return tls

    def as_token(self, token: str) -> RawApi:
        """A client of the same server with another identity."""
        return RawApi(self.kubeconfig, token)

    def as_account(self, namespace: str, account: str) -> RawApi:
        """A client as this service account, with a token for ten minutes."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return self.as_token(str(self.create(path, request).object()["status"]["token"]))

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._where.hostname or "", self._where.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._tls)

    @contextmanager
    def _send(self, method: str, path: str, body: Any, content_type: str) -> Iterator[http.client.HTTPResponse]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: str
    ) -> Reply:
        """Send one request; ``query`` becomes the query string."""
        target = f"{path}?{urlencode(query)}" if query else path
        with self._send(method, target, body, content_type) as response:
            text = response.read()
            return Reply(response.status, json.loads(text) if text.startswith(b"{") else {"text": text.decode()})

    def get(self, path: str, **query: str) -> Reply:
        """GET a path."""
        return self.call("GET", path, **query)

    def create(self, path: str, body: Object, **query: str) -> Reply:
        """Create an object in a collection."""
        return self.call("POST", path, body, **query)

    def patch(self, path: str, body: Object, **query: str) -> Reply:
        """Merge-patch an object."""
        return self.call("PATCH", path, body, content_type=MERGE_PATCH, **query)

    def apply(self, path: str, body: Object, manager: str = "test") -> Reply:
        """Server-side apply, with force."""
        return self.call("PATCH", path, body, content_type=APPLY_PATCH, fieldManager=manager, force="true")

    def delete(self, path: str) -> Reply:
        """Delete without a grace period."""
        return self.call("DELETE", path, {"gracePeriodSeconds": 0})

    def watch(self, path: str, **query: str) -> Iterator[Object]:
        """Watch events of a collection; ends when the server is silent for the socket's timeout."""
        with self._send("GET", f"{path}?{urlencode({'watch': 'true', **query})}", None, "application/json") as response:
            assert response.status == 200, response.read()
            while line := response.readline():
                yield json.loads(line)
