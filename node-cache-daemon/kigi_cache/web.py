"""HTTP server of the daemon: metrics and health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from kigi.adapters.listening import listen
from kigi_cache.metrics import REGISTRY


def build_app(unready: Callable[[], str]) -> web.Application:
    """``/metrics``; ``/healthz``: the event loop runs; ``/readyz``: 200 if ``unready()`` is empty, else 503 with it."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        cause = unready()
        return web.Response(text=f"{cause or 'ok'}\n", status=503 if cause else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


async def serve(app: web.Application, host: str, port: int) -> None:
    """Serve ``app`` until cancelled; ``host`` empty: on every address. Raises OSError if the address is taken."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listen(host, port)).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
