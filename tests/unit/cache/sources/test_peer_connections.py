"""Bounds of the peer server's connections, on loopback; time limits are fractions of a second."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from kigi_cache.sources.peer_connections import (
    ACCEPTED_AT_ONCE,
    MAX_OF_AN_ADDRESS,
    MAX_STRANGERS,
    RECEIVE_BYTES,
    PeerConnections,
    StrangerLimits,
    _Encrypted,
    origin_of,
    serve_peers,
)
from localcluster.processes import free_port
from tests.support.peers import certificate, client_context, until_listening
from tests.support.scripted_fills import soon

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER_S = 10.0


@dataclass
class World:
    connections: PeerConnections
    port: int
    go_on: asyncio.Event
    asked: list[str]

    async def open(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection whose handshake is complete."""
        here = (address, 0)
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=here, ssl=client_context())

    async def open_plain(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without a handshake."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))


@asynccontextmanager
async def serving(
    *, in_all: int = 64, of_an_address: int = 64, head_s: float = 60.0, check_s: float = 60.0, is_known: bool = True
) -> AsyncIterator[World]:
    """Requests are answered after ``go_on``. ``is_known``: each has a daemon's token, which is checked at once."""
    limits = StrangerLimits(in_all, of_an_address, head_s, check_s)
    world = World(PeerConnections(limits), free_port(), asyncio.Event(), [])

    async def answer(request: web.Request) -> web.Response:
        world.connections.asked(request.protocol)
        world.asked.append(str(request.remote))
        if is_known:
            world.connections.forget(request.protocol)
        await world.go_on.wait()
        return web.Response(text="answer")

    app = web.Application()
    app.add_routes([web.get("/", answer)])
    context = certificate().context
    task = asyncio.create_task(serve_peers(app, world.connections, lambda: context, "127.0.0.1", world.port))
    try:
        await until_listening(world.connections, task)
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Waits for the server's end of the connection."""
    async with asyncio.timeout(ANSWER_S):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


async def head(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(ANSWER_S):
        return await reader.readuntil(b"answer")


@pytest.mark.parametrize("sent", [b"", b"GET /layers", GET[:-2], b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5])
async def test_a_connection_without_a_complete_request_is_closed(sent: bytes) -> None:
    async with serving(head_s=0.1) as world:
        reader, writer = await world.open()
        writer.write(sent)
        assert await is_closed(reader)
        assert len(world.connections) == 0


def client_hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client_context(version).wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


HELLO = client_hello()


@pytest.mark.parametrize("sent", [b"", HELLO[:1], HELLO[:-1], HELLO], ids=["nothing", "a byte", "half", "no finish"])
async def test_a_handshake_that_does_not_end_is_a_part_of_the_time(sent: bytes) -> None:
    async with serving(head_s=0.1) as world:
        reader, writer = await world.open_plain()
        writer.write(sent)
        async with asyncio.timeout(ANSWER_S):
            await reader.read()
        assert (len(world.connections), world.asked) == (0, [])


TOO_LONG = b"\x16\x03\x01\x40\x00" + b"\x01\x7f\xff\xff" + bytes(16380)


@pytest.mark.parametrize(
    "sent",
    [GET, b"\0" * 1000, HELLO[:5] + bytes(len(HELLO)), TOO_LONG * 10, client_hello(ssl.TLSVersion.TLSv1_2)],
    ids=["plain HTTP", "zeros", "nonsense", "too long", "TLS 1.2"],
)
async def test_who_speaks_something_else_is_closed_and_gets_no_answer(sent: bytes) -> None:
    async with serving() as world:
        reader, writer = await world.open_plain()
        writer.write(sent)
        async with asyncio.timeout(ANSWER_S):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert len(answer) <= 7, "an alert of TLS at most"
        await soon(lambda: len(world.connections) == 0)
        assert world.asked == []


async def test_a_client_with_an_older_tls_is_refused() -> None:
    async with serving() as world:
        with pytest.raises(OSError):  # noqa: PT011 - an alert, or the end of the connection
            await asyncio.open_connection("127.0.0.1", world.port, ssl=client_context(ssl.TLSVersion.TLSv1_2))
        _, writer = await world.open()
        assert writer.get_extra_info("cipher")[1] == "TLSv1.3"


@pytest.mark.parametrize("sent", [b"", HELLO[:100], HELLO, b"\0" * 100], ids=["silent", "half", "no finish", "zeros"])
async def test_a_flood_of_handshakes_keeps_no_daemon_away(sent: bytes) -> None:
    async with serving(of_an_address=20, in_all=40) as world:
        world.go_on.set()
        most = 0
        for _ in range(5):
            for number in range(40):
                _, stranger = await world.open_plain(f"127.0.1.{1 + number % 4}")
                stranger.write(sent)
                most = max(most, len(world.connections))
            reader, writer = await world.open()
            writer.write(GET)
            assert b"200 OK" in await head(reader)
        assert most <= 40


async def test_a_connection_has_little_memory_before_it_is_a_daemons() -> None:
    encrypted = _Encrypted(asyncio.Protocol(), certificate().context, PeerConnections())
    assert len(encrypted.get_buffer(-1)) == RECEIVE_BYTES == 16384
    encrypted.connection_lost(None)


async def test_a_head_that_drips_gets_no_more_time() -> None:
    async with serving(head_s=0.2) as world:
        reader, writer = await world.open()
        writer.write(b"GET /")
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():
            writer.write(b"a")
            await asyncio.sleep(0.01)
        assert await closed


async def test_a_daemons_request_has_no_limit_here() -> None:
    async with serving(head_s=0.5, check_s=0.05) as world:
        reader, writer = await world.open()
        writer.write(GET)
        other, _ = await world.open_plain()
        assert await is_closed(other), "the time has passed"
        world.go_on.set()
        assert b"200 OK" in await head(reader)


async def test_a_request_whose_token_is_not_checked_in_time_is_closed() -> None:
    async with serving(check_s=0.1, is_known=False) as world:
        reader, writer = await world.open()
        writer.write(GET)
        assert await is_closed(reader)
        assert (len(world.asked), len(world.connections)) == (1, 0)


async def test_of_too_many_connections_of_an_address_the_one_that_waits_longest_is_closed() -> None:
    async with serving(of_an_address=10) as world:
        strangers = [await world.open() for _ in range(100)]
        for reader, _ in strangers[:90]:
            assert await is_closed(reader)
        assert len(world.connections) == 10
        world.go_on.set()
        reader, writer = await world.open()
        writer.write(GET)
        assert b"200 OK" in await head(reader), "a daemon with the address of the flood is served"


async def test_a_flood_of_some_addresses_leaves_the_connections_of_others_alone() -> None:
    async with serving(in_all=20) as world:
        reader, writer = await world.open("127.0.0.9")
        strangers = [await world.open(f"127.0.1.{1 + number % 8}") for number in range(200)]
        closed = await asyncio.gather(*(is_closed(each) for each, _ in strangers[:150]))
        assert (all(closed), len(world.connections)) == (True, 20)
        writer.write(GET)
        world.go_on.set()
        assert b"200 OK" in await head(reader)


async def test_a_request_that_is_complete_outlives_those_that_are_not() -> None:
    async with serving(of_an_address=4, is_known=False) as world:
        reader, writer = await world.open()
        others = [await world.open() for _ in range(3)]
        await soon(lambda: len(world.connections) == 4)
        writer.write(GET)
        await soon(lambda: bool(world.asked))
        _later = [await world.open() for _ in range(3)]
        for other, _ in others:
            assert await is_closed(other)
        world.go_on.set()
        assert b"200 OK" in await head(reader)


async def test_daemons_requests_are_neither_closed_for_new_connections_nor_counted() -> None:
    async with serving(in_all=3) as world:
        busy: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        while len(busy) < 6:
            reader, writer = await world.open()
            writer.write(GET)
            busy.append((reader, writer))
            await soon(lambda: len(world.asked) == len(busy))
        strangers = [await world.open() for _ in range(20)]
        for reader, _ in strangers[:17]:
            assert await is_closed(reader)
        world.go_on.set()
        for reader, _ in busy:
            assert b"200 OK" in await head(reader)


async def test_the_server_ends_although_connections_are_open() -> None:
    async with serving() as world:
        silent, _ = await world.open_plain()
        shaken, _ = await world.open()
        reader, writer = await world.open()
        writer.write(GET)
        await soon(lambda: bool(world.asked))
    for each in (silent, shaken, reader):
        assert await is_closed(each)
    assert len(world.connections) == 0


async def test_a_closed_connection_is_forgotten() -> None:
    async with serving() as world:
        _, writer = await world.open()
        await soon(lambda: len(world.connections) == 1)
        writer.close()
        await soon(lambda: len(world.connections) == 0)


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        (("192.0.2.7", 4711), "192.0.2.7"),
        (("::ffff:192.0.2.7", 4711, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (("", 0), ""),
        ((), ""),
        (None, ""),
        ("/run/socket", ""),
    ],
)
def test_machines_are_told_apart_by_address_or_ipv6_network(peer: object, origin: str) -> None:
    assert origin_of(peer) == origin


def test_an_honest_daemon_is_read_before_its_turn_to_be_closed() -> None:
    assert 4 * ACCEPTED_AT_ONCE <= MAX_OF_AN_ADDRESS < MAX_STRANGERS < 1024


async def test_a_head_that_is_too_long_is_refused() -> None:
    async with serving() as world:
        reader, writer = await world.open()
        writer.write(b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n")
        async with asyncio.timeout(ANSWER_S):
            assert b" 400 " in await reader.readline()
