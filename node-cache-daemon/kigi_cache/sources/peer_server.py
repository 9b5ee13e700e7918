"""Serves layers to other nodes: held ones, and those that are being fetched as far as their bytes have arrived."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from kigi.domain.layers import Digest, digest_of_hex
from kigi_cache import metrics
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.sources.peer_connections import PeerConnections

MAX_TRANSFERS = 8
"""Transfers that one node serves at the same time; further readers are refused and ask another node."""
PIECE_BYTES = 2**20
POLL_S = 0.02
"""Interval in which the progress of a layer that is being fetched is polled."""
STALLED_S = 4.0
"""A transfer whose layer makes no progress for so long is aborted. Shorter than PeerTimeouts.silence_s, so that the
reader continues elsewhere before its own timeout."""
MAX_OF_A_PEER = 4
"""Of these transfers, the most to one daemon: a stolen node does not take them all."""
MAX_PIECE_S = 20.0
"""A reader that takes longer for a piece is left: it blocks one of the transfers."""

PeerOf = Callable[[str], Awaitable[str]]
"""Which daemon a bearer token belongs to; empty: to none."""


class LayerFiles(Protocol):
    """What is held and fetched on this node, and in which files."""

    def path(self, digest: Digest) -> Path:
        """File of a held layer."""

    def part_path(self, digest: Digest) -> Path:
        """File of a layer that is being fetched."""

    def is_held(self, digest: Digest) -> bool:
        """Whether the layer is held."""


class LayerSupply(Protocol):
    """The part of the filler that is served."""

    @property
    def store(self) -> LayerFiles:
        """Files of the layers."""

    def size_of(self, digest: Digest) -> int | None:
        """Size of a layer that is held or being fetched; None for any other."""

    def available_bytes(self, digest: Digest) -> int | None:
        """Bytes of it that can be read now; None if it is neither held nor being fetched."""


def build_peer_app(
    supply: LayerSupply, peer_of: PeerOf, connections: PeerConnections | None = None, clock: Clock = REAL_TIME
) -> web.Application:
    """``GET /layers/sha256/<hex>?start=N[&unfinished=1]`` with a daemon's token; the bytes from N to the end.

    Without ``unfinished`` a layer that is still being fetched is 404, as an unknown one is.
    """
    connections = PeerConnections() if connections is None else connections

    @web.middleware
    async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
        connections.asked(request.protocol)
        return await handler(request)

    async def close_after(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Connection"] = "close"
        response.force_close()

    app = web.Application(middlewares=[bounded], client_max_size=0)
    app.on_response_prepare.append(close_after)
    app.add_routes([web.get("/layers/sha256/{hex}", _PeerServer(supply, peer_of, connections, clock).get)])
    return app


class _PeerServer:
    def __init__(self, supply: LayerSupply, peer_of: PeerOf, connections: PeerConnections, clock: Clock) -> None:
        self._supply = supply
        self._peer_of = peer_of
        self._connections = connections
        self._clock = clock
        self._transfers: Counter[str] = Counter()
        """Transfers in progress, by peer."""

    async def get(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        peer = await self._peer_of(token) if scheme == "Bearer" else ""
        if not peer:
            return web.Response(status=401, text="a node cache daemon's token is required\n")
        self._connections.forget(request.protocol)
        try:
            digest = digest_of_hex(request.match_info["hex"])
            start = int(request.query.get("start", "0"))
        except ValueError:
            return web.Response(status=400, text="not a layer\n")
        size_bytes = self._supply.size_of(digest)
        unfinished = "unfinished" in request.query
        if size_bytes is None or not (unfinished or self._supply.store.is_held(digest)):
            return web.Response(status=404, text="this node has no such layer\n")
        if not 0 <= start < size_bytes:
            return web.Response(status=416, text=f"the layer has {size_bytes} bytes\n")
        if self._transfers.total() >= MAX_TRANSFERS or self._transfers[peer] >= MAX_OF_A_PEER:
            return web.Response(status=503, text="busy\n")
        self._transfers[peer] += 1
        try:
            return await self._send(request, digest, start, size_bytes)
        finally:
            self._transfers[peer] -= 1
            self._transfers += Counter()  # without those that have none

    async def _send(self, request: web.Request, digest: Digest, start: int, size_bytes: int) -> web.StreamResponse:
        """The bytes from ``start`` on. If the layer's own transfer fails, the connection is aborted."""
        response = web.StreamResponse(headers={"Content-Length": str(size_bytes - start)})
        await response.prepare(request)
        descriptor = -1
        progress_at_s = self._clock.monotonic_s()
        try:
            while start < size_bytes:
                available = self._supply.available_bytes(digest)
                waited_s = self._clock.monotonic_s() - progress_at_s
                if available is None or (available <= start and waited_s > STALLED_S):
                    break
                if available > start and descriptor < 0:
                    descriptor = _open(self._supply.store, digest)
                if available <= start or descriptor < 0:
                    await self._clock.sleep(POLL_S)
                    continue
                data = await asyncio.to_thread(os.pread, descriptor, min(PIECE_BYTES, available - start), start)
                if not data:
                    break
                async with asyncio.timeout(MAX_PIECE_S):
                    await response.write(data)
                metrics.PEER_BYTES.labels("sent").inc(len(data))
                start += len(data)
                progress_at_s = self._clock.monotonic_s()
        except (TimeoutError, ConnectionError):
            pass  # the reader takes nothing, or has left; the connection is aborted below
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if start < size_bytes and request.transport is not None:
            request.transport.abort()  # a regular end would claim that the body is complete
        return response


def _open(files: LayerFiles, digest: Digest) -> int:
    """Descriptor of the layer's file under its current name; it stays valid when the file is renamed or evicted."""
    for path in (files.path(digest), files.part_path(digest)):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return -1
