"""The daemon's watch of its NodeCache: ended by the server, expired, or silent for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kigi.errors import Unreachable
from kigi_cache.node import kube
from kigi_cache.node.kube import WATCH_S, KubeApi
from kigi_cache.node.node_cache import HEARTBEAT_S
from tests.support.pod_api import Authority, PodApi

CACHE = {"apiVersion": "kigi.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": "n", "uid": "u", "generation": 1}}


class Server:
    """Plays the events, then ends the answer or goes silent."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.silent = False
        self.queries: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.events:
            await response.write(json.dumps(event).encode() + b"\n")
        if self.silent:
            await asyncio.sleep(60)
        return response


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, KubeApi]]:
    server, authority = Server(), Authority("ca")
    pod = PodApi(tmp_path / "pod", server.answer)
    pod.trust(authority)
    await pod.serve(authority)
    pod.enter(monkeypatch)
    api = KubeApi("n")
    await api.open()
    yield server, api
    await api.close()
    await pod.close()


async def test_a_watch_ends_in_good_order_after_its_time(served: tuple[Server, KubeApi]) -> None:
    server, api = served
    server.events = [{"type": "MODIFIED", "object": CACHE}]
    seen = [cache async for cache in api.watch("7")]
    assert [cache.metadata.uid for cache in seen if cache is not None] == ["u"]
    assert (server.queries[0]["timeoutSeconds"], server.queries[0]["resourceVersion"]) == (str(WATCH_S), "7")


async def test_a_silent_watch_is_given_up(served: tuple[Server, KubeApi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "SILENCE_S", 0.2)
    server, api = served
    server.events, server.silent = [{"type": "MODIFIED", "object": CACHE}], True
    watch = api.watch("7")
    assert await anext(watch) is not None
    with pytest.raises(Unreachable, match="watch of NodeCache n"):
        await anext(watch)


async def test_a_version_that_expired_is_listed_anew(served: tuple[Server, KubeApi]) -> None:
    server, api = served
    server.events = [{"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}]
    with pytest.raises(Unreachable, match="too old"):
        await anext(api.watch("7"))


def test_a_heartbeat_that_is_late_twice_does_not_end_a_watch() -> None:
    assert kube.SILENCE_S > 3 * HEARTBEAT_S
