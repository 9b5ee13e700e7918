"""Which connection is used again; tests/unit/cache/test_fetch_over_time.py has those that are dropped over time."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kigi_cache.sources.connections import Connections
from tests.support.manual_clock import ManualClock


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    connections = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is expected."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def kept() -> Iterator[Connections]:
    made = Connections(5.0, ManualClock().clock)
    yield made
    made.close()


def get(kept: Connections, url: str, path: str = "/") -> None:
    with kept.get(url, None) as connection:
        connection.request("GET", path)
        assert connection.getresponse().read() == b"ok"


def test_a_connection_is_used_again(kept: Connections, server: Server) -> None:
    for _ in range(5):
        get(kept, server.url)
    assert server.connections == 1


def test_two_users_at_the_same_time_have_two_connections(kept: Connections, server: Server) -> None:
    with kept.get(server.url, None) as first, kept.get(server.url, None) as second:
        assert first is not second
    for _ in range(3):
        get(kept, server.url)
    assert server.connections == 1, "neither was used before"


def test_a_response_that_was_not_read_is_not_continued(kept: Connections, server: Server) -> None:
    def interrupted() -> None:
        with kept.get(server.url, None) as connection:
            connection.request("GET", "/")
            connection.getresponse()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    get(kept, server.url)
    assert server.connections == 2


def test_a_reader_that_stops_in_the_middle_closes_its_connection(kept: Connections, server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        with kept.get(server.url, None) as connection:
            connection.request("GET", "/")
            response = connection.getresponse()
            while piece := response.read(1):
                yield piece

    reader = pieces()
    assert next(reader) == b"o"
    reader.close()  # type: ignore[attr-defined]
    get(kept, server.url)
    assert server.connections == 2


def test_a_server_that_closes_is_connected_anew(kept: Connections, server: Server) -> None:
    get(kept, server.url, "/close")
    get(kept, server.url)
    assert server.connections == 2
    assert len(kept._all) == 1


def test_servers_and_authorities_do_not_share_connections(kept: Connections, server: Server) -> None:
    get(kept, server.url)
    with kept.get(server.url, "/etc/other.pem") as connection:
        assert connection.sock is None


def test_a_closed_source_connects_no_more(kept: Connections, server: Server) -> None:
    get(kept, server.url)
    kept.close()
    with pytest.raises(ConnectionAbortedError), kept.get(server.url, None):
        pass
