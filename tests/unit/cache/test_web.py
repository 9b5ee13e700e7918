"""The daemon's HTTP pages, and the figures that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from kigi.api.node_cache import CachedLayer, CachedVolume, NodeCacheStatus
from kigi_cache import web
from kigi_cache.metrics import CacheCollector
from localcluster.processes import free_port
from tests.support.cluster import eventually_async


class Pages:
    def __init__(self) -> None:
        self.cause = ""
        self.url = f"http://127.0.0.1:{free_port()}"

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status, await response.text()

    async def answers(self) -> bool:
        try:
            return bool(await self.get("/healthz"))
        except aiohttp.ClientError:
            return False


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    made = Pages()
    app = web.build_app(lambda: made.cause)
    task = asyncio.create_task(web.serve(app, "127.0.0.1", int(made.url.rpartition(":")[2])))
    await eventually_async(made.answers, 10)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_health_and_readiness_are_two_questions(pages: Pages) -> None:
    assert await pages.get("/healthz") == (200, "ok\n")
    assert await pages.get("/readyz") == (200, "ok\n")
    pages.cause = "no answer from the API server"
    assert await pages.get("/healthz") == (200, "ok\n")
    assert await pages.get("/readyz") == (503, "no answer from the API server\n")


async def test_metrics_are_served_as_text(pages: Pages) -> None:
    status, text = await pages.get("/metrics")
    assert status == 200
    assert "# HELP kigi_cache_csi_calls_total" in text


def test_figures_of_the_status_are_read_at_each_scrape() -> None:
    status: NodeCacheStatus | None = None
    registry = CollectorRegistry()
    registry.register(CacheCollector(lambda: status))
    assert registry.get_sample_value("kigi_cache_used_bytes") is None
    status = NodeCacheStatus(
        layers=[CachedLayer(digest=str(n), state=state) for n, state in enumerate(("Held", "Held", "Fetching"))],
        volumes=[CachedVolume(name="a", mounted=True), CachedVolume(name="b"), CachedVolume(name="c")],
        used_bytes=7,
        budget_bytes=9,
        fetched_bytes_total=11,
    )
    assert registry.get_sample_value("kigi_cache_used_bytes") == 7
    assert registry.get_sample_value("kigi_cache_budget_bytes") == 9
    assert registry.get_sample_value("kigi_cache_fetched_bytes_total") == 11
    states = ("Held", "Fetching", "Queued", "Refused")
    assert [registry.get_sample_value("kigi_cache_layers", {"state": state}) for state in states] == [2, 1, 0, 0]
    mounted = [registry.get_sample_value("kigi_cache_overlays", {"mounted": value}) for value in ("true", "false")]
    assert mounted == [1, 2]
