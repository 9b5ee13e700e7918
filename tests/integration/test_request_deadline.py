"""A real API server gives up a write at the end of the lease of its sender, even if the sender cannot give it up."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.kubernetes.api_requests import Request
from kigi.adapters.kubernetes.connection import guarded
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.pod_api import Authority
from tests.support.raw_api import Object, RawApi

STALL_S = 4.0
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


class _Stalls(BaseHTTPRequestHandler):
    """Allows everything, after a while."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(STALL_S)
        answer: Object = {"apiVersion": review["apiVersion"], "kind": review["kind"]}
        answer["response"] = {"uid": review["request"]["uid"], "allowed": True}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(api: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[RawApi]:
    """The API server, which waits for an admission webhook at each write of a ConfigMap in the namespace."""
    authority = Authority("webhook")
    hook = ThreadingHTTPServer(("127.0.0.1", 0), _Stalls)
    context: ssl.SSLContext = authority.context(tmp_path)
    hook.socket = context.wrap_socket(hook.socket, server_side=True)
    threading.Thread(target=hook.serve_forever, args=(0.05,), daemon=True).start()
    admin = RawApi(api.kubeconfig)
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}
    body = {
        "metadata": {"name": f"stalls-{namespace}"},
        "webhooks": [
            {
                "name": "stalls.example.org",
                "clientConfig": {
                    "url": f"https://127.0.0.1:{hook.server_address[1]}/",
                    "caBundle": base64.b64encode(authority.ca_pem).decode(),
                },
                "rules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 20,
                "failurePolicy": "Fail",
            }
        ],
    }
    admin.create(HOOKS, body).object()
    yield admin
    admin.delete(f"{HOOKS}/stalls-{namespace}")
    hook.shutdown()
    hook.server_close()


def test_a_write_that_waits_on_the_server_ends_with_its_senders_lease(server: RawApi, namespace: str) -> None:
    """The client here waits for the answer, as one does that is suspended: it does not close the connection."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def create(name: str, left_s: float | None) -> tuple[int, float]:
        request, _ = guarded(Request("POST", path), lambda: left_s)
        began = time.monotonic()
        reply = server.create(path, {"metadata": {"name": name}}, **request.query)
        return reply.code, time.monotonic() - began

    eventually(lambda: create(f"warm-{time.monotonic_ns()}", None)[1] >= STALL_S, 60, "the webhook is asked")
    assert create("within", 3 * STALL_S)[0] == 201
    code, took_s = create("after", 1.0)
    assert code >= 500
    assert took_s < STALL_S
    time.sleep(STALL_S + 1)
    names = {item["metadata"]["name"] for item in server.get(path).object()["items"]}
    assert "within" in names
    assert "after" not in names
