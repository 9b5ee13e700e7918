"""Console script ``kigi-operator``: writes JSON logs, serves health and metrics, and runs until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable

import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kigi.adapters.environment import load_settings
from kigi.adapters.json_logs import log_to_stderr
from kigi.adapters.listening import listen
from kigi.errors import SpecInvalid
from kigi.process import open_ports, run_operator
from kigi.runtime.ports import ClusterRestored
from kigi.runtime.settings import GC_THRESHOLD, Settings

logger = logging.getLogger(__name__)


async def serve(settings: Settings, ready: asyncio.Event, unhealthy: Callable[[], str] = lambda: "") -> web.AppRunner:
    """Serves /healthz (200 if ``unhealthy()`` is empty), /readyz (its watches run) and /metrics (Prometheus)."""

    async def healthz(_: web.Request) -> web.Response:
        cause = unhealthy()
        if cause:  # the kubelet's event about a failed probe has the code alone
            logger.error("no progress; the kubelet restarts this process", extra={"stuck": cause})
        return web.Response(text=cause or "ok", status=503 if cause else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(
            text="ok" if ready.is_set() else "watches are starting", status=200 if ready.is_set() else 503
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listen(settings.http_host, settings.http_port)).start()
    return runner


async def run(settings: Settings) -> None:
    """Runs the operator and its HTTP server until SIGTERM or SIGINT."""
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ports = await open_ports(settings)
    runner = await serve(settings, ready, ports.unhealthy)
    try:
        await run_operator(ports, stop=stop, ready=ready)
    finally:
        await runner.cleanup()
        await ports.kube.close()


def main() -> None:
    """Reads the settings and runs; exit code 1 with the wrong variables' names if they do not validate."""
    gc.set_threshold(*GC_THRESHOLD)
    try:
        settings = load_settings(Settings)
    except ValueError as exc:
        sys.exit(f"kigi-operator: {exc}")
    log_to_stderr(settings.log_level)
    try:
        uvloop.run(run(settings))
    except (ClusterRestored, SpecInvalid) as exc:
        sys.exit(f"kigi-operator: {exc}")


if __name__ == "__main__":
    main()
