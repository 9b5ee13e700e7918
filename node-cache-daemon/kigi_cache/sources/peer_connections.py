"""Encrypts connections of peers, and bounds what strangers cost, so that a flood of them keeps no daemon away.

A connection is a stranger's until its request has a daemon's token, from the first packet on: the handshake is a part
of the time that it has for its request. Strangers have little time, and their number is bounded: for each address, and
in all. A new connection is always taken; if there are too many, one of the address with the most connections is closed,
the longest waiting first. A daemon has few connections and sends its request at once, so it is known long before its
turn. Each connection serves one request, so that none is idle.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from kigi.adapters.listening import listen

HEAD_S = 2.0
"""Time from the connection to the complete head of its request; it includes the handshake."""
CHECK_S = 5.0
"""Time from there until its token is checked; a daemon waits no longer for an answer (PeerTimeouts.silence_s)."""
MAX_STRANGERS = 512
"""With the daemon's own files, less than 1,024, which some runtimes allow a process."""
MAX_OF_AN_ADDRESS = 256
"""Many times ACCEPTED_AT_ONCE, so that even a daemon that shares the address of a flood is read before its turn."""
CLOSE_S = 5.0
"""Longest time for the last bytes of an answer, and for the end of the encryption."""
ACCEPTED_AT_ONCE = 32
"""Most connections that are accepted in one round of the event loop, which then reads what the earlier ones sent."""
QUEUE = 1024
"""Connections that wait in the kernel; of further ones, the client sends the first packet again after a second."""
NETWORK_BITS = 64
"""IPv6 addresses with equal first bits count as one: each machine may use all of them."""
RECEIVE_BYTES = 16384
"""Buffer of a connection for what it receives, allocated before the handshake; asyncio's own has 256 KiB."""
MAX_HEAD_BYTES = 32768
"""Of one request's line and headers; a token has up to 16,384 bytes."""


@dataclass(frozen=True, slots=True)
class StrangerLimits:
    """Bounds of the connections without a checked token."""

    in_all: int = MAX_STRANGERS
    of_an_address: int = MAX_OF_AN_ADDRESS
    head_s: float = HEAD_S
    check_s: float = CHECK_S


LIMITS = StrangerLimits()


class PeerConnections:
    """The strangers' connections of one server. Belongs to one event loop."""

    def __init__(self, limits: StrangerLimits = LIMITS) -> None:
        self._limits = limits
        self._open: dict[asyncio.BaseProtocol, tuple[str, asyncio.WriteTransport]] = {}
        """Origin and socket's transport of each connection, by the protocol that reads its requests."""
        self._waiting: dict[str, dict[asyncio.BaseProtocol, asyncio.TimerHandle]] = {}
        """By origin, the longest waiting first; no origin is without a connection."""
        self.listening = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: asyncio.BaseProtocol, transport: asyncio.WriteTransport) -> None:
        """A stranger has connected; ``transport`` is below the encryption."""
        origin = origin_of(transport.get_extra_info("peername"))
        if len(self._waiting.get(origin, ())) >= self._limits.of_an_address:
            self._drop_oldest(origin)
        elif len(self) >= self._limits.in_all:
            self._drop_oldest(max(self._waiting, key=lambda each: len(self._waiting[each])))
        self._wait(connection, origin, transport, self._limits.head_s)

    def asked(self, connection: asyncio.BaseProtocol) -> None:
        """The head of its request is complete: others go first, and it has time for the check of its token."""
        known = self._open.get(connection)
        if known is not None:
            self.forget(connection)
            self._wait(connection, *known, self._limits.check_s)

    def drop(self, connection: asyncio.BaseProtocol) -> None:
        """Close a connection at once."""
        _, transport = self._open[connection]
        self.forget(connection)
        transport.abort()

    def close(self) -> None:
        """Close all connections of strangers."""
        for connection in list(self._open):
            self.drop(connection)

    def forget(self, connection: asyncio.BaseProtocol) -> None:
        """The connection is closed, or it is a daemon's: no bound here applies any more."""
        if connection not in self._open:
            return
        origin, _ = self._open.pop(connection)
        waiting = self._waiting[origin]
        waiting.pop(connection).cancel()
        if not waiting:
            del self._waiting[origin]

    def _wait(
        self, connection: asyncio.BaseProtocol, origin: str, transport: asyncio.WriteTransport, seconds: float
    ) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self.drop, connection)
        self._open[connection] = origin, transport
        self._waiting.setdefault(origin, {})[connection] = timer

    def _drop_oldest(self, origin: str) -> None:
        self.drop(next(iter(self._waiting[origin])))


def origin_of(peer: object) -> str:
    """The address of a socket's peer, or the network of an IPv6 address; empty if there is none."""
    host = peer[0] if isinstance(peer, tuple) and peer else ""
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))


class _Encrypted(SSLProtocol):
    """TLS below ``protocol``. A server's own TLS would show the connection only after its handshake."""

    max_size = RECEIVE_BYTES

    def __init__(self, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, connections: PeerConnections) -> None:
        no_waiter: Any = None  # waits for the handshake
        loop = asyncio.get_running_loop()
        super().__init__(loop, protocol, context, no_waiter, server_side=True, ssl_shutdown_timeout=CLOSE_S)
        self._requests = protocol
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._connections.add(self._requests, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.forget(self._requests)
        super().connection_lost(exc)


async def serve_peers(
    app: web.Application,
    connections: PeerConnections,
    context: Callable[[], ssl.SSLContext],
    host: str,
    port: int,
) -> None:
    """Serve ``app`` until cancelled. ``context`` is called for each connection. Raises OSError if the address is taken.

    ``host`` empty: on every address. There is no other server for peers: none reads or answers anything in plain text.
    """
    half = MAX_HEAD_BYTES // 2
    runner = web.AppRunner(app, access_log=None, max_line_size=half, max_field_size=half + 256, shutdown_timeout=1.0)
    await runner.setup()
    try:
        requests = runner.server
        assert requests is not None
        loop = asyncio.get_running_loop()
        # asyncio accepts as many connections in one round as its backlog has; the kernel's queue may be longer.
        server = await loop.create_server(
            lambda: _Encrypted(requests(), context(), connections),
            sock=listen(host, port),
            backlog=ACCEPTED_AT_ONCE,
        )
        for listener in server.sockets:
            with listener.dup() as same:
                same.listen(QUEUE)
        try:
            connections.listening.set()
            await asyncio.Event().wait()
        finally:
            server.close()  # and no wait: since Python 3.12 it would last until the last transfer has ended
            connections.close()
    finally:
        await runner.cleanup()
