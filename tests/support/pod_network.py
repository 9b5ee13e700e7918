"""An API server with Services, pods and Secrets, which forwards ports of pods to servers on this machine.

It speaks the protocol of a kubelet (``v4.channel.k8s.io``): messages with a channel's number, whose first two bytes
repeat the port. ``tests/e2e/test_install_page.py`` has real kubelets.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from kigi.cli.cluster import Access

PROTOCOL = Subprotocol("v4.channel.k8s.io")
SERVICE = "/api/v1/namespaces/kigi-system/services/kigi-s3"
PODS = "/api/v1/namespaces/kigi-system/pods"
WRITER = "/api/v1/namespaces/kigi-system/secrets/kigi-s3-writer"
READER = "/api/v1/namespaces/kigi-system/secrets/kigi-s3-reader"
REPOSITORY = "/apis/kigi.dev/v1alpha2/layerrepositories/main"


class PodNetwork:
    """``objects``: bodies by path. ``forbidden``: paths, or beginnings of them, that answer 403."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Of the server on this machine to which port 9000 of each pod leads."""
        self.objects: dict[str, Any] = {
            SERVICE: {
                "metadata": {"name": "kigi-s3"},
                "spec": {"selector": {"app": "s3"}, "ports": [{"name": "s3", "port": 9000, "targetPort": "s3"}]},
            },
            PODS: {"metadata": {}, "items": [ready_pod("kigi-s3-0")]},
        }
        self.forbidden: set[str] = set()
        self.asked: list[str] = []
        self.streams = 0
        """Connections to pods so far."""
        self.handle: Callable[[ServerConnection], None] = self.forward

    def add_repository(self, bucket: str, endpoint: str = "http://kigi-s3.kigi-system.svc:9000", **s3: Any) -> None:
        """LayerRepository main with Secrets of reader and writer."""
        spec = {
            "s3": {"endpoint": endpoint, "bucket": bucket, **s3},
            "credentials": {
                "readerSecretRef": {"name": "kigi-s3-reader"},
                "writerSecretRef": {"name": "kigi-s3-writer"},
            },
            "namespaceSelector": {},
            "defaultFor": "AllNamespaces",
        }
        self.objects[REPOSITORY] = {"metadata": {"name": "main"}, "spec": spec}

    def add_keys(self, path: str, access: str, secret: str) -> None:
        """A Secret with these keys."""
        encoded = {"accessKeyId": access, "secretAccessKey": secret}
        self.objects[path] = {"data": {key: base64.b64encode(text.encode()).decode() for key, text in encoded.items()}}

    @contextmanager
    def serving(self, folder: Path) -> Iterator[Access]:
        """Access to the API server while the context lasts."""
        server: Server = serve(
            lambda stream: self.handle(stream), "127.0.0.1", 0, subprotocols=[PROTOCOL],
            process_request=self._answer, compression=None, max_size=None,
        )  # fmt: skip
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        document = {
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.socket.getsockname()[1]}"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "range"}}],
            "users": [{"name": "u", "user": {"token": "t0ken"}}],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(document))
        try:
            yield Access(str(folder / "kubeconfig"))
        finally:
            server.shutdown()
            thread.join()

    def _answer(self, stream: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        self.asked.append(request.path)
        if any(path.startswith(each) for each in self.forbidden):
            return _json(stream, HTTPStatus.FORBIDDEN, {"kind": "Status", "message": "no"})
        if path.endswith("/portforward"):
            names = [each["metadata"]["name"] for each in self.objects[PODS]["items"]]
            return None if path.split("/")[-2] in names else _json(stream, HTTPStatus.NOT_FOUND, {"message": "no pod"})
        if path in self.objects:
            return _json(stream, HTTPStatus.OK, self.objects[path])
        return _json(stream, HTTPStatus.NOT_FOUND, {"kind": "Status", "message": f"{path} not found"})

    def forward(self, stream: ServerConnection) -> None:
        """As a kubelet: bytes of channel 0 in both directions until either side ends."""
        (port,) = parse_qs(urlsplit(stream.request.path if stream.request else "").query)["ports"]
        self.streams += 1
        for channel in (0, 1):
            stream.send(bytes((channel,)) + struct.pack("<H", int(port)))
        try:
            target = socket.create_connection(("127.0.0.1", self.port), 10)
        except OSError as exc:
            stream.send(b"\x01" + f"error forwarding port {port}: {exc}".encode())
            return
        target.settimeout(None)
        with target:
            up = threading.Thread(target=_up, args=(stream, target), daemon=True)
            up.start()
            with contextlib.suppress(OSError):
                while data := target.recv(32768):
                    stream.send(b"\x00" + data)
            stream.close()
            up.join(10)


def _up(stream: ServerConnection, target: socket.socket) -> None:
    with contextlib.suppress(Exception):
        for message in stream:
            assert isinstance(message, bytes), "text"
            assert message[0] == 0, "a channel that the client may not use"
            target.sendall(message[1:])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def ready_pod(name: str, *, ready: bool = True) -> dict[str, Any]:
    """A pod with the port s3 = 9000."""
    return {
        "metadata": {"name": name, "namespace": "kigi-system"},
        "spec": {"containers": [{"name": "s3", "ports": [{"name": "s3", "containerPort": 9000}]}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def _json(stream: ServerConnection, status: HTTPStatus, body: Any) -> Response:
    response = stream.respond(status, json.dumps(body))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response
