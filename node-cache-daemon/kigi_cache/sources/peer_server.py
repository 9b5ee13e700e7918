"""Layers for other nodes: what is held, and what is on its way as far as it has come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from aiohttp import web

from kigi.domain.layers import Digest, digest_of_hex
from kigi_cache import metrics
from kigi_cache.layers.filler import Filler

AT_ONCE = 8
"""Transfers that one node serves; more are refused at once, and ask another node."""
PIECE_BYTES = 2**20
LOOK_S = 0.02
STALLED_S = 4.0
"""A layer on its way that does not come on: the reader asks elsewhere before its own patience ends."""

Allowed = Callable[[str], Awaitable[bool]]
"""Whether a bearer token belongs to a daemon."""


def build_peer_app(filler: Filler, allowed: Allowed) -> web.Application:
    """``GET /layers/sha256/<hex>?start=N[&unfinished=1]`` with a daemon's token."""
    serving = 0

    async def layer(request: web.Request) -> web.StreamResponse:
        nonlocal serving
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not await allowed(token):
            return web.Response(status=401, text="a node cache daemon's token is required\n")
        try:
            digest = digest_of_hex(request.match_info["hex"])
            start = int(request.query.get("start", "0"))
        except ValueError:
            return web.Response(status=400, text="not a layer\n")
        size_bytes = filler.size_of(digest)
        unfinished = "unfinished" in request.query
        if size_bytes is None or not (unfinished or filler.store.is_held(digest)):
            return web.Response(status=404, text="this node has no such layer\n")
        if not 0 <= start < size_bytes:
            return web.Response(status=416, text=f"the layer has {size_bytes} bytes\n")
        if serving >= AT_ONCE:
            return web.Response(status=503, text="busy\n")
        serving += 1
        try:
            return await _send(request, filler, digest, start, size_bytes)
        finally:
            serving -= 1

    app = web.Application()
    app.add_routes([web.get("/layers/sha256/{hex}", layer)])
    return app


async def _send(
    request: web.Request, filler: Filler, digest: Digest, start: int, size_bytes: int
) -> web.StreamResponse:
    """The bytes from ``start``; a layer whose transfer ends badly is broken off, and the reader goes on elsewhere."""
    answer = web.StreamResponse(headers={"Content-Length": str(size_bytes - start)})
    await answer.prepare(request)
    descriptor = -1
    loop = asyncio.get_running_loop()
    idle_since = loop.time()
    try:
        while start < size_bytes:
            available = filler.available(digest)
            if available is None or (available <= start and loop.time() - idle_since > STALLED_S):
                break
            if available <= start:
                await asyncio.sleep(LOOK_S)
                continue
            if descriptor < 0:
                descriptor = _open(filler, digest)
                if descriptor < 0:
                    await asyncio.sleep(LOOK_S)
                    continue
            data = await asyncio.to_thread(os.pread, descriptor, min(PIECE_BYTES, available - start), start)
            if not data:
                break
            await answer.write(data)
            metrics.PEER_BYTES.labels("sent").inc(len(data))
            start += len(data)
            idle_since = loop.time()
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if start < size_bytes and request.transport is not None:
        request.transport.abort()  # an end in good order would say that this was all
    return answer


def _open(filler: Filler, digest: Digest) -> int:
    """The file, under the name that it has now; it keeps its bytes when it is renamed or evicted."""
    for path in (filler.store.path(digest), filler.store.part_path(digest)):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return -1
