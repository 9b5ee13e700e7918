"""Attacks on the way between two daemons, with real sockets: a listener, strangers at a peer's address, old keys."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kigi.domain.layers import Digest, Layer
from kigi_cache.sources.pace import cut
from kigi_cache.sources.peer_certificates import Certificate, make_certificate
from kigi_cache.sources.peer_connections import PeerConnections, serve_peers
from kigi_cache.sources.peer_members import address
from kigi_cache.sources.peer_pins import AGAIN_S, Pins, PublishedPins
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import DEFAULT_TIMEOUTS, PeerSource, PeerTimeouts
from kigi_cache.sources.peer_tls import PeerConnection
from localcluster.processes import free_port
from tests.support.manual_clock import ManualClock
from tests.support.peers import Published, until_listening

CONTENT = b"the content of a layer " * 4096
TOKEN = "the-token-of-a-daemon"
LAYER = Layer(Digest("sha256:" + "a" * 64), len(CONTENT), 512)
ME = "127.0.0.1:1"
QUICK = PeerTimeouts(silence_s=1.0)


class Supply:
    """One layer that is held."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "layer"
        self.file.write_bytes(CONTENT)

    @property
    def store(self) -> Supply:
        return self

    def path(self, digest: Digest) -> Path:
        return self.file

    part_path = path

    def is_held(self, digest: Digest) -> bool:
        return True

    def size_of(self, digest: Digest) -> int:
        return len(CONTENT)

    available_bytes = size_of


class Repository:
    """The source behind the peers."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        self.reads += 1
        yield memoryview(CONTENT)[start:]

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


@dataclass
class Daemon:
    """The server of one daemon; its certificate may be replaced, as by a restart."""

    certificate: Certificate
    port: int = field(default_factory=free_port)
    tokens: list[str] = field(default_factory=list)
    ip: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return address(self.ip, self.port)

    async def peer_of(self, token: str) -> str:
        self.tokens.append(token)
        return token


@asynccontextmanager
async def serving(directory: Path, host: str = "127.0.0.1") -> AsyncIterator[Daemon]:
    daemon, connections = Daemon(make_certificate(0.0)), PeerConnections()
    app = build_peer_app(Supply(directory), daemon.peer_of, connections)
    context: Callable[[], ssl.SSLContext] = lambda: daemon.certificate.context  # noqa: E731
    task = asyncio.create_task(serve_peers(app, connections, context, host, daemon.port))
    await until_listening(connections, task)
    try:
        yield daemon
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read(
    address: str, pins: Pins, time: ManualClock | None = None, timeouts: PeerTimeouts = DEFAULT_TIMEOUTS
) -> int:
    """Reads of the repository that it takes to get the layer from this peer."""
    repository = Repository()
    clock = (time or ManualClock()).clock
    source = PeerSource(repository, ME, lambda: {address}, lambda: TOKEN, pins, timeouts=timeouts, clock=clock)
    content = await asyncio.to_thread(lambda: b"".join(map(bytes, source.read(LAYER, 0))))
    assert content == CONTENT
    return repository.reads


@contextmanager
def listener(target: str) -> Iterator[tuple[str, bytearray]]:
    """An address that passes everything on to ``target`` and back, and all bytes that it has seen."""
    seen, server = bytearray(), socket.create_server(("127.0.0.1", 0))
    host, _, port = target.rpartition(":")

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen.extend(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                behind = socket.create_connection((host, int(port)))
                for ends in ((client, behind), (behind, client)):
                    threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", seen
    finally:
        server.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
@pytest.mark.parametrize(("host", "ip"), [("::1", "::1"), ("", "::1"), ("", "127.0.0.1")])
async def test_layers_pass_over_both_families(tmp_path: Path, host: str, ip: str) -> None:
    async with serving(tmp_path, host) as daemon:
        daemon.ip = ip
        assert await read(daemon.address, Published({daemon.certificate.fingerprint})) == 0, daemon.address


async def test_a_listener_reads_neither_token_nor_layer(tmp_path: Path) -> None:
    async with serving(tmp_path) as daemon:
        with listener(daemon.address) as (address, seen):
            assert await read(address, Published({daemon.certificate.fingerprint})) == 0, "the peer gave all of it"
    assert daemon.tokens == [TOKEN]
    assert len(seen) > len(CONTENT)
    for secret in (TOKEN.encode(), b"Bearer", b"GET /", LAYER.digest[7:].encode(), CONTENT[:23]):
        assert secret not in seen


@dataclass
class Stranger:
    """What listens at a peer's address: the bytes that it gets, and those that it decrypts."""

    port: int
    received: bytearray = field(default_factory=bytearray)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def stranger(meet: Callable[[socket.socket, Stranger], None]) -> Iterator[Stranger]:
    server = socket.create_server(("127.0.0.1", 0))
    it = Stranger(server.getsockname()[1])

    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            meet(client, it)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=[server.accept()[0]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield it
    finally:
        server.close()


def receive_all(client: socket.socket, it: Stranger) -> None:
    while data := client.recv(65536):
        it.received.extend(data)


def with_own_certificate(client: socket.socket, it: Stranger) -> None:
    with make_certificate(0.0).context.wrap_socket(client, server_side=True) as encrypted:
        receive_all(encrypted, it)


def answers_in_plain_text(client: socket.socket, it: Stranger) -> None:
    it.received.extend(client.recv(65536))
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT)
    receive_all(client, it)


def with_an_older_tls(client: socket.socket, it: Stranger) -> None:
    context = make_certificate(0.0).context
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(client, server_side=True) as encrypted:
        receive_all(encrypted, it)


@pytest.mark.parametrize("meet", [receive_all, with_own_certificate, answers_in_plain_text, with_an_older_tls])
async def test_a_stranger_at_a_peers_address_gets_no_token_and_gives_no_layer(
    meet: Callable[[socket.socket, Stranger], None],
) -> None:
    pins = Published({make_certificate(0.0).fingerprint})
    with stranger(meet) as it:
        assert await read(it.address, pins, timeouts=QUICK) == 1, "the repository gave it"
    for secret in (TOKEN.encode(), b"Bearer", b"GET", LAYER.digest[7:].encode()):
        assert secret not in it.received


@contextmanager
def altering(target: str, at: int) -> Iterator[str]:
    """An address that passes everything on, but for one byte of the server's answer."""
    server = socket.create_server(("127.0.0.1", 0))
    host, _, port = target.rpartition(":")

    def back(source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if passed <= at < passed + len(data):
                    data[at - passed] ^= 1
                passed += len(data)
                sink.sendall(data)
        sink.close()

    def forth(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        sink.close()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                behind = socket.create_connection((host, int(port)))
                threading.Thread(target=back, args=(behind, client), daemon=True).start()
                threading.Thread(target=forth, args=(client, behind), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("at", [0, 5, 20, 80, 100, 130, 150, 300, 400, 500])
async def test_a_man_in_the_middle_who_changes_the_handshake_gets_no_request(tmp_path: Path, at: int) -> None:
    """Random numbers, key exchange, certificate, signature and end of the handshake are at these bytes."""
    async with serving(tmp_path) as daemon:
        with altering(daemon.address, at) as address:
            assert await read(address, Published({daemon.certificate.fingerprint}), timeouts=QUICK) == 1
        assert daemon.tokens == []


class Api:
    """The Lease of the peer's node."""

    def __init__(self, *fingerprints: str) -> None:
        self.fingerprints = frozenset(fingerprints)
        self.reads = 0

    async def peer_certificates(self, node: str) -> frozenset[str]:
        self.reads += 1
        return self.fingerprints


async def test_a_daemon_that_has_restarted_is_found_by_what_its_node_publishes_now(tmp_path: Path) -> None:
    time = ManualClock()
    async with serving(tmp_path) as daemon:
        api = Api(daemon.certificate.fingerprint)
        pins = PublishedPins(api, lambda peer: "b", time.clock)
        assert await read(daemon.address, pins, time) == 0
        daemon.certificate = make_certificate(0.0)
        time.advance(AGAIN_S)
        assert await read(daemon.address, pins, time) == 1, "it has not published it yet"
        api.fingerprints = frozenset({daemon.certificate.fingerprint})
        time.advance(AGAIN_S)
        assert await read(daemon.address, pins, time) == 0
        assert await read(daemon.address, pins, time) == 0
    assert api.reads == 3
    assert daemon.tokens == [TOKEN] * 3, "none was sent to a certificate that was not published"


async def test_both_certificates_are_accepted_while_one_replaces_the_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as daemon:
        following = make_certificate(0.0)
        pins = Published({daemon.certificate.fingerprint, following.fingerprint})
        assert await read(daemon.address, pins) == 0
        daemon.certificate = following
        assert await read(daemon.address, pins) == 0
        assert pins.read_again == 0


async def test_a_daemon_of_an_earlier_version_is_not_even_connected_to() -> None:
    """It has published nothing, and would read the token in plain text."""
    with stranger(answers_in_plain_text) as it:
        assert await read(it.address, Published(())) == 1
    assert it.received == b""


def test_nothing_is_sent_before_the_peer_is_verified() -> None:
    with stranger(answers_in_plain_text) as it:
        connection = PeerConnection(it.address, 5.0, 5.0)
        with pytest.raises(http.client.NotConnected):
            connection.request("GET", "/", headers={"Authorization": f"Bearer {TOKEN}"})
        with pytest.raises(ssl.SSLError):
            connection.verify(Published({"a" * 64}), lambda sock: None)
        connection.close()
    assert TOKEN.encode() not in it.received


async def test_a_connection_that_is_cut_never_goes_on_in_plain_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as daemon:
        pins = Published({daemon.certificate.fingerprint})
        with listener(daemon.address) as (address, seen):

            def send_after_cut() -> None:
                connection = PeerConnection(address, 5.0, 5.0)
                connection.verify(pins, cut_later.append)
                cut(cut_later[0])
                with pytest.raises(OSError, match=r"EOF|[Pp]ipe|closed"):
                    connection.request("GET", "/", headers={"Authorization": f"Bearer {TOKEN}"})
                assert cut_later[0].cipher() is not None, "it is still an encrypted one"
                connection.close()

            cut_later: list[ssl.SSLSocket] = []
            await asyncio.to_thread(send_after_cut)
        assert TOKEN.encode() not in seen
