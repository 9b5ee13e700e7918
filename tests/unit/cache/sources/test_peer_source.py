"""Reading from peers on loopback: what is asked of which one, and when the repository is asked instead."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi_cache.sources.pace import LeastPace
from kigi_cache.sources.peer_ranking import ranked
from kigi_cache.sources.peer_source import PeerSource, PeerTimeouts
from kigi_cache.sources.peer_trust import DEFAULT_TRUST
from kigi_cache.sources.rival import RacePolicy
from tests.support.manual_clock import ManualClock
from tests.support.peers import certificate, shared_pins

CONTENT = bytes(range(256)) * 16
ME = "127.0.0.1:1"
QUICK = PeerTimeouts(connect_s=5.0, silence_s=5.0)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def layer_for(peer: str, *, before: bool) -> Layer:
    """A layer for which the peer is ranked before (or behind) this node."""
    return next(
        Layer(digest(number), len(CONTENT), 512)
        for number in range(1000)
        if (ranked(digest(number), [peer, ME])[0] == peer) is before
    )


class Repository:
    """The source behind the peers; counts its reads."""

    def __init__(self) -> None:
        self.starts: list[int] = []

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        self.starts.append(start)
        yield memoryview(CONTENT)[start:]

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


class Peer(http.server.ThreadingHTTPServer):
    """Answers as ``answer`` does: (status, bytes to send); the declared length is always that of the rest."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int], tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = certificate().context.wrap_socket(self.socket, server_side=True)
        self.answer = answer
        self.requests: list[tuple[str, str]] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is expected."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Peer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Authorization"]))
        start = int(self.path.partition("start=")[2].partition("&")[0])
        status, body = self.server.answer(start)
        self.send_response(status)
        self.send_header("Content-Length", str(max(len(body), len(CONTENT) - start) if status == 200 else 0))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def serving(answer: Callable[[int], tuple[int, bytes]]) -> Iterator[Peer]:
    peer = Peer(answer)
    threading.Thread(target=peer.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield peer
    finally:
        peer.shutdown()
        peer.server_close()


def read(source: PeerSource, layer: Layer, start: int = 0) -> bytes:
    return b"".join(bytes(piece) for piece in source.read(layer, start))


def source_of(repository: Repository, *peers: str, time: ManualClock | None = None) -> PeerSource:
    clock = (time or ManualClock()).clock
    return PeerSource(repository, ME, lambda: peers, lambda: "a token", shared_pins(), timeouts=QUICK, clock=clock)


def whole(start: int) -> tuple[int, bytes]:
    return 200, CONTENT[start:]


def test_a_peer_gives_the_rest_from_any_byte() -> None:
    repository = Repository()
    with serving(whole) as peer:
        layer = layer_for(peer.address, before=True)
        assert read(source_of(repository, peer.address), layer, 100) == CONTENT[100:]
        path = f"/layers/sha256/{digest_hex(layer.digest)}?start=100&unfinished=1"
        assert peer.requests == [(path, "Bearer a token")]
    assert repository.starts == []


def test_a_peer_behind_in_the_ranking_is_asked_only_for_what_it_holds() -> None:
    with serving(whole) as peer:
        layer = layer_for(peer.address, before=False)
        assert read(source_of(Repository(), peer.address), layer) == CONTENT
        assert "unfinished" not in peer.requests[0][0]


def test_a_peer_that_breaks_off_is_asked_again_and_the_repository_gives_the_rest() -> None:
    repository = Repository()
    with serving(lambda start: (200, CONTENT[start : start + 1000])) as peer:
        layer = layer_for(peer.address, before=True)
        assert read(source_of(repository, peer.address), layer) == CONTENT
    assert repository.starts == [1000]


def test_a_peer_that_sends_more_than_the_layer_is_left() -> None:
    repository = Repository()
    with serving(lambda start: (200, CONTENT + b"more")) as peer:
        layer = layer_for(peer.address, before=True)
        pieces = source_of(repository, peer.address).read(layer, 0)
        assert b"".join(bytes(piece) for piece in pieces) == CONTENT
    assert repository.starts == [0]


@pytest.mark.parametrize("status", [401, 416, 500, 503])
def test_a_peer_that_refuses_costs_one_request(status: int) -> None:
    repository, time = Repository(), ManualClock()
    with serving(lambda start: (status, b"")) as peer:
        layer = layer_for(peer.address, before=True)
        assert read(source_of(repository, peer.address, time=time), layer) == CONTENT
        assert len(peer.requests) == 1
    assert (repository.starts, time.blocked_s) == ([0], [])


def test_a_peer_that_does_not_know_the_layer_yet_gets_a_moment() -> None:
    repository, time = Repository(), ManualClock()
    with serving(lambda start: (404, b"") if time.now_s < 0.5 else whole(start)) as peer:
        layer = layer_for(peer.address, before=True)
        assert read(source_of(repository, peer.address, time=time), layer) == CONTENT
    assert (repository.starts, time.blocked_s) == ([], [0.25, 0.25])


def test_a_peer_that_never_learns_of_the_layer_costs_less_than_a_second() -> None:
    repository, time = Repository(), ManualClock()
    with serving(lambda start: (404, b"")) as peer:
        layer = layer_for(peer.address, before=True)
        assert read(source_of(repository, peer.address, time=time), layer) == CONTENT
        assert len(peer.requests) == 4
    assert (repository.starts, time.now_s) == ([0], 0.75)


def test_a_peer_behind_in_the_ranking_that_does_not_hold_the_layer_is_not_waited_for() -> None:
    repository, time = Repository(), ManualClock()
    with serving(lambda start: (404, b"")) as peer:
        layer = layer_for(peer.address, before=False)
        assert read(source_of(repository, peer.address, time=time), layer) == CONTENT
    assert time.blocked_s == []


def test_a_peer_that_is_down_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    repository = Repository()
    assert read(source_of(repository, address), layer_for(address, before=True)) == CONTENT
    assert repository.starts == [0]


def test_a_peer_that_gave_wrong_bytes_is_not_asked_for_ten_minutes() -> None:
    repository, time = Repository(), ManualClock()
    with serving(whole) as peer:
        layer = layer_for(peer.address, before=True)
        source = source_of(repository, peer.address, time=time)
        read(source, layer)
        source.distrust(layer.digest)
        read(source, layer)
        source.done(layer.digest)
        assert (len(peer.requests), repository.starts) == (1, [0])
        time.advance(DEFAULT_TRUST.wrong_s + 1)
        read(source, layer)
        assert (len(peer.requests), repository.starts) == (2, [0])


def head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


def drip(begin: bytes, endless: bytes) -> Callable[[socket.socket], None]:
    """A peer that sends ``begin``, and then a piece of ``endless`` every 10 ms."""

    def answer(client: socket.socket) -> None:
        client.sendall(begin)
        while True:
            client.sendall(endless)
            threading.Event().wait(0.01)

    return answer


def silent(begin: bytes) -> Callable[[socket.socket], None]:
    """A peer that sends ``begin``, and then nothing."""

    def answer(client: socket.socket) -> None:
        client.sendall(begin)
        client.recv(1)

    return answer


@contextmanager
def speaking(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Address of a peer that answers each request with ``answer``."""
    server = socket.create_server(("127.0.0.1", 0))

    def one(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), certificate().context.wrap_socket(plain, server_side=True) as client:
            client.recv(65536)
            answer(client)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=[server.accept()[0]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


HASTY = PeerTimeouts(connect_s=5.0, silence_s=0.3)
HOSTILE: dict[str, Callable[[socket.socket], None]] = {
    "drips-the-body": drip(head(len(CONTENT)), CONTENT[:1]),
    "drips-the-head": drip(b"HTTP/1.1 200 OK\r\n", b"a"),
    "endless-headers": drip(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
    "endless-continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silent": silent(b""),
    "silent-in-the-body": silent(head(len(CONTENT)) + CONTENT[:100]),
    "no-http": lambda client: client.sendall(b"SSH-2.0\r\n"),
    "too-short": lambda client: client.sendall(head(5) + CONTENT[:5]),
    "too-long": lambda client: client.sendall(head(len(CONTENT) + 1) + CONTENT + b"x"),
    "no-length": lambda client: client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT),
    "chunked": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "long-header": lambda client: client.sendall(b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_peer_that_wastes_time_is_left_and_not_asked_again(kind: str) -> None:
    repository = Repository()
    with speaking(HOSTILE[kind]) as address:
        layer = layer_for(address, before=True)
        source = PeerSource(
            repository,
            ME,
            lambda: {address},
            lambda: "t",
            shared_pins(),
            timeouts=HASTY,
            least_pace=LeastPace(bytes_per_s=50_000, window_s=0.2),
            race=RacePolicy(enough_bytes_per_s=0.0),
        )
        assert len(read(source, layer)) == len(CONTENT)
        assert len(repository.starts) == 1
        assert source.trust.trusted({address}, digest(0)) == set()


def test_a_peer_that_closes_in_the_handshake_is_asked_again() -> None:
    """It does so with the oldest connections while strangers flood it, and on its end."""
    repository, server = Repository(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = server.accept()[0]
                client.recv(65536)
                client.shutdown(socket.SHUT_RDWR)
                client.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.closing(server):
        source = source_of(repository, address)
        assert len(read(source, layer_for(address, before=True))) == len(CONTENT)
        assert source.trust.trusted({address}, digest(0)) == {address}


def test_a_disk_does_not_wait_for_a_slow_peer() -> None:
    repository = Repository()
    begin = head(len(CONTENT)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")  # as a daemon answers
    with speaking(drip(begin, CONTENT[:1])) as address:
        layer = layer_for(address, before=True)
        race = RacePolicy(check_s=0.05, lead_bytes=100)
        source = PeerSource(repository, ME, lambda: {address}, lambda: "t", shared_pins(), race=race)
        received = b"".join(map(bytes, source.read(layer, 0, lambda: True)))
        assert len(received) == len(CONTENT)
        begin = repository.starts[0]
        assert received[begin + 100 :] == CONTENT[begin + 100 :], "the rival's bytes continue those of the peer"
        assert len(repository.starts) == 1
        assert source.trust.trusted({address}, digest(0)) == set()
