"""Reading from peers on loopback: what is asked of which one, and when the repository is asked instead."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi_cache.sources import peer_source
from kigi_cache.sources.peer_ranking import ranked
from kigi_cache.sources.peer_source import MAX_REMEMBERED, PeerGone, PeerSource, PeerTimeouts
from tests.support.manual_clock import ManualClock

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

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        self.starts.append(start)
        yield memoryview(CONTENT)[start:]

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


class Peer(http.server.ThreadingHTTPServer):
    """Answers as ``answer`` does: (status, bytes to send); the declared length is always that of the rest."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int], tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
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
    return PeerSource(repository, ME, lambda: peers, lambda: "a token", timeouts=QUICK, clock=clock)


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
        assert (len(peer.requests), repository.starts) == (1, [0])
        time.advance(QUICK.distrust_s + 1)
        read(source, layer)
        assert (len(peer.requests), repository.starts) == (2, [0])


def test_a_peer_whose_bytes_were_right_stays_trusted() -> None:
    with serving(whole) as peer:
        layer = layer_for(peer.address, before=True)
        source = source_of(Repository(), peer.address)
        read(source, layer)
        source.done(layer.digest)
        source.distrust(layer.digest)
        assert source._trusted() == {peer.address}


def test_layers_that_are_given_up_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def __init__(self, *_: object, **__: object) -> None:
            self.sock = SimpleNamespace(settimeout=lambda seconds: None)

        def connect(self) -> None: ...

        def request(self, *_: object, **__: object) -> None: ...

        def getresponse(self) -> Any:
            return SimpleNamespace(status=200, readinto=lambda buffer: 0)

        def close(self) -> None: ...

    monkeypatch.setattr(peer_source.http.client, "HTTPConnection", Connection)
    source = source_of(Repository(), "other:1")
    for number in range(2 * MAX_REMEMBERED):
        with pytest.raises(PeerGone):
            list(source._read_peer("other:1", Layer(digest(number), 5, 512), 0, False))
    assert len(source._used) == MAX_REMEMBERED


def test_peers_are_trusted_again_and_forgotten() -> None:
    time = ManualClock()
    source = source_of(cast(Any, None), "a:1", "b:1", time=time)
    for number in range(10_000):
        source._used[digest(number)] = {f"peer-{number}:1", "a:1"}
        source.distrust(digest(number))
        time.advance(1.0)
        assert source._trusted() == {"b:1"}
    assert len(source._distrusted_until_s) <= QUICK.distrust_s + 1
    time.advance(QUICK.distrust_s + 1)
    assert source._trusted() == {"a:1", "b:1"}
    assert source._used == source._distrusted_until_s == {}
