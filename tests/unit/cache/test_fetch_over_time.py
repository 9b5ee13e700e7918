"""Reading from a repository for months: connections that were dropped silently, rotated credentials and authorities."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Digest, Layer
from kigi.errors import AccessDenied
from kigi_cache.sources.connections import MAX_IDLE_S, Connections
from kigi_cache.sources.s3 import S3Source
from kigi_cache.sources.signing import URL_LIFE_S, SignedUrl
from tests.support.manual_clock import ManualClock
from tests.support.pod_api import Authority

CONTENT = bytes(range(256)) * 64
LAYER = Layer(Digest(f"sha256:{1:064x}"), len(CONTENT), 2**20)


class Store(http.server.ThreadingHTTPServer):
    """An S3 server with one object, for one access key; counts connections."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key, self.connections, self.context = "key-1", 0, context

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is expected."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        credential = parse_qs(urlsplit(self.path).query).get("X-Amz-Credential", [""])[0]
        if not credential.startswith(self.server.key + "/"):
            self._answer(403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")
            return
        start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = CONTENT[int(start) : int(stop) + 1]
        self._answer(206, part, f"bytes {start}-{stop}/{len(CONTENT)}")

    def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Store]:
    server = Store(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def url_of(server: Store, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.server_address[1]}/x?X-Amz-Credential=key-1/"


def ask(kept: Connections, url: str, ca_file: str | None = None) -> None:
    parts = urlsplit(url)
    with kept.get(url, ca_file) as connection:
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": "bytes=0-9"})
        assert connection.getresponse().read() == CONTENT[:10]


def test_an_idle_connection_is_not_used_again() -> None:
    time = ManualClock()
    with serving() as server:
        kept = Connections(5.0, time.clock)
        ask(kept, url_of(server))
        time.advance(MAX_IDLE_S)
        ask(kept, url_of(server))
        assert server.connections == 1
        time.advance(MAX_IDLE_S + 1)
        ask(kept, url_of(server))
        assert server.connections == 2
        assert len(kept._all) == 1
        kept.close()


def test_connections_that_end_badly_leave_nothing_behind() -> None:
    with serving() as server:
        kept = Connections(5.0)
        for _ in range(50):
            with pytest.raises(ConnectionError), kept.get(url_of(server), None):
                raise ConnectionResetError
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        for _ in range(50):
            with pytest.raises(OSError):  # noqa: PT011
                ask(kept, f"http://127.0.0.1:{port}/x?")
        assert kept._all == []
        assert all(idle == [] for idle in kept._idle.values())


def test_a_rotated_authority_is_used_by_the_next_connection(tmp_path: Path) -> None:
    first, second = Authority("first"), Authority("second")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(first.ca_pem)
    time = ManualClock()
    with serving(first.context(tmp_path)) as server:
        kept = Connections(5.0, time.clock)
        ask(kept, url_of(server, "https"), str(ca))
        server.context = second.context(tmp_path)
        time.advance(2 * MAX_IDLE_S)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(kept, url_of(server, "https"), str(ca))
        ca.write_bytes(second.ca_pem)
        ask(kept, url_of(server, "https"), str(ca))
        kept.close()


def test_credentials_that_were_rotated_in_the_mounted_secret_are_used() -> None:
    with serving() as server:
        settings = {"endpoint": url_of(server).partition("/x")[0], "bucket": "kigi"}

        def with_key(key: str) -> Repositories:
            keys = {"accessKeyId": key, "secretAccessKey": f"secret of {key}"}
            return Repositories(repositories={"default": Repository.model_validate(settings | keys)})

        source = S3Source(with_key("key-1"), {}, connections=1, timeout_s=5.0)
        assert b"".join(map(bytes, source.read(LAYER, 0))) == CONTENT
        server.key = "key-2"
        with pytest.raises(AccessDenied):
            list(source.read(LAYER, 0))
        source.use(with_key("key-2"))
        assert b"".join(map(bytes, source.read(LAYER, 0))) == CONTENT
        for number in range(3, 30):
            server.key = f"key-{number}"
            source.use(with_key(server.key))
            assert b"".join(map(bytes, source.read(LAYER, 0))) == CONTENT
        source.close()


def test_a_fill_longer_than_the_life_of_a_signed_url_signs_again() -> None:
    time = ManualClock()
    signed_at: list[float] = []

    def sign() -> str:
        signed_at.append(time.now_s)
        return str(len(signed_at))

    signed = SignedUrl(sign, time.clock)
    for _ in range(24 * 60):  # a day, a range a minute
        time.advance(60)
        signed.get()
        assert time.now_s - signed_at[-1] <= URL_LIFE_S / 2
