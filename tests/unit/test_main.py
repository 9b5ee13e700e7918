"""The operator's HTTP server: health, readiness and metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from kigi.main import serve
from kigi.runtime.settings import Settings


@pytest.fixture
async def ready() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def url(ready: asyncio.Event) -> AsyncIterator[str]:
    runner = await serve(Settings(identity="me", http_host="127.0.0.1", http_port=0), ready)
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def answer(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_a_process_that_answers_is_healthy_before_its_watches_run(url: str) -> None:
    assert await answer(f"{url}/healthz") == (200, "ok")


async def test_a_process_without_progress_is_not_healthy_and_names_what_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = [""]
    settings = Settings(identity="me", http_host="127.0.0.1", http_port=0)
    runner = await serve(settings, asyncio.Event(), lambda: stuck[0])
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/healthz"
        assert await answer(url) == (200, "ok")
        assert not caplog.records
        stuck[0] = "lease: no attempt for 301 s"
        assert await answer(url) == (503, "lease: no attempt for 301 s")
        (record,) = caplog.records
        assert record.__dict__["stuck"] == "lease: no attempt for 301 s"
    finally:
        await runner.cleanup()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
async def test_it_answers_on_both_families() -> None:
    runner = await serve(Settings(identity="me", http_port=0), asyncio.Event())
    try:
        for host in ("127.0.0.1", "[::1]"):
            assert await answer(f"http://{host}:{runner.addresses[0][1]}/healthz") == (200, "ok")
    finally:
        await runner.cleanup()


async def test_it_is_ready_when_its_watches_run(url: str, ready: asyncio.Event) -> None:
    assert await answer(f"{url}/readyz") == (503, "watches are starting")
    ready.set()
    assert await answer(f"{url}/readyz") == (200, "ok")


async def test_metrics_have_prometheus_form(url: str) -> None:
    status, text = await answer(f"{url}/metrics")
    assert status == 200
    for name in ("kigi_leader", "kigi_queue_depth", "kigi_mirror_synced", "kigi_reconcile_errors"):
        assert f"# HELP {name}" in text
