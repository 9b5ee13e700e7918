"""A TCP port on this machine that leads to a port of a pod, through the API server.

Only the command line uses it: operator and daemons are in the cluster's network.

Each connection is one WebSocket of the subresource ``portforward`` with the protocol ``v4.channel.k8s.io``, which API
servers pass on to the kubelet unchanged and which container runtimes serve (k8s.io/cri-streaming,
pkg/streaming/portforward/websocket.go). The first byte of a message is the channel: 0 has data, 1 errors. The first two
bytes of either channel repeat the port. A side cannot end its direction alone, which HTTP does not need.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.http_connection import open_websocket
from kigi.errors import Forbidden, KigiError, NotFound, SpecInvalid, Unauthorized, Unreachable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
CHUNK = 64 * 1024
OPEN_S = 30.0
"""Time to connect to a pod."""
CLOSE_S = 1.0
"""Time that either side gets to end a connection."""
END_S = 5.0
"""Time that all connections get to end with the tunnel."""
PORT_BYTES = 2
MAX_MESSAGE_BYTES = 16 * 2**20
"""Kubelets send 32 KiB."""
ERROR_CHARACTERS = 400


@contextmanager
def open_port(endpoint: Endpoint, namespace: str, pod: str, port: int) -> Iterator[ClientConnection]:
    """A connection to a port of a pod; its first messages are still to be read.

    Raises Forbidden, NotFound, Unauthorized, SpecInvalid or Unreachable.
    """
    from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

    place, server = f"pod {namespace}/{pod}", endpoint.server
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/portforward?ports={port}"
    try:
        stream = open_websocket(
            endpoint,
            path,
            PROTOCOL,
            OPEN_S,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
            ping_interval=None,  # the server answers no ping while a slow pod takes data
        )
    except InvalidStatus as exc:
        raise refusal(exc.response.status_code, bytes(exc.response.body or b""), place, server) from exc
    except InvalidHandshake as exc:
        raise SpecInvalid(f"{place}: {server} forwards no port of it: {exc}") from exc
    except (WebSocketException, OSError) as exc:
        raise Unreachable(f"{place}: {server} does not answer: {exc}") from exc
    with stream:
        yield stream


def refusal(status: int, body: bytes, place: str, server: str) -> KigiError:
    """The error for an HTTP status with which the API server refuses to forward a port."""
    text = body.decode(errors="replace")[:ERROR_CHARACTERS]
    match status:
        case 401:
            return Unauthorized(f"{server}: the API server does not accept the credentials; log in again")
        case 403:
            return Forbidden(
                f"{place}: you may not forward its ports; you need the right to get and to create pods/portforward in "
                f"its namespace: {text}"
            )
        case 404:
            return NotFound(f"{place}: it does not exist")
    return Unreachable(f"{place}: the API server answers {status}: {text}")


class Tunnel:
    """Listens on a free port of the loopback address while the context lasts, for any number of connections.

    ``connect`` opens one connection to the pod, as ``open_port`` does. Each program on this machine can use the port.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[ClientConnection]]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._is_closing = False
        self._problem = ""

    @property
    def url(self) -> str:
        """Where HTTP clients reach the pod."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def problem(self) -> str:
        """Why the last failed connection could not be opened; empty: none failed."""
        return self._problem

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closing = True
            clients, threads = list(self._clients), list(self._threads)
        # A connection ends the wait for one on every platform.
        with suppress(OSError), socket.create_connection(self._listener.getsockname(), CLOSE_S):
            pass
        for client in clients:
            _shut(client)
        for thread in threads:
            thread.join(END_S)
        self._listener.close()

    def _start(self, run: Callable[[], None]) -> None:
        # A daemon: a connection that does not end keeps no command from its end.
        def run_and_forget() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run_and_forget, daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_closing:
                    client.close()
                    return
                self._clients.add(client)
            self._start(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _serve(self, client: socket.socket) -> None:
        """Forwards one connection until either side ends."""
        with client:
            try:
                with self._connect() as stream:
                    up = threading.Thread(target=_send, args=(client, stream), daemon=True)
                    up.start()
                    self._receive(client, stream)
                    _shut(client)
                    up.join(END_S)
            except KigiError as exc:
                self._problem = str(exc)
            with self._lock:
                self._clients.discard(client)

    def _receive(self, client: socket.socket, stream: ClientConnection) -> None:
        from websockets.exceptions import WebSocketException

        header, errors = {DATA: PORT_BYTES, ERROR: PORT_BYTES}, b""
        with suppress(OSError, WebSocketException):
            for message in stream:
                channel, data = message[0] if isinstance(message, bytes) and message else None, message[1:]
                if channel not in header or not isinstance(data, bytes):
                    self._problem = "the API server sends a message of another protocol"
                    break
                skipped = min(header[channel], len(data))
                header[channel] -= skipped
                if channel == DATA:
                    client.sendall(data[skipped:])
                else:
                    errors = (errors + data[skipped:])[:ERROR_CHARACTERS]
        if errors:
            self._problem = errors.decode(errors="replace")
        stream.close()


def _send(client: socket.socket, stream: ClientConnection) -> None:
    from websockets.exceptions import WebSocketException

    with suppress(OSError, WebSocketException):
        while data := client.recv(CHUNK):
            stream.send(bytes((DATA,)) + data)
    stream.close()


def _shut(client: socket.socket) -> None:
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
