"""The operator's watch of the nodes' Leases: from a listing on, with gaps; nothing is reconciled for a heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.adapters.kubernetes.watch import WatchEvent
from kigi.errors import Unreachable
from kigi.handlers.heartbeats import HeartbeatTimes, list_heartbeats, watch_heartbeats
from kigi.mirror.store import Mirror
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.bodies import NAME, NS, cache_body, deployment_body, lease_body, node_body

QUICK = HeartbeatTimes(backoff_s=(0.001, 0.004))


class Api:
    """Lists ``leases``; a watch streams what is put into ``events`` and ends with a None, or raises an error."""

    def __init__(self) -> None:
        self.leases: list[dict[str, Any]] = []
        self.events: asyncio.Queue[WatchEvent | Exception | None] = asyncio.Queue()
        self.asked: list[tuple[str, str | None, str]] = []
        self.handled = asyncio.Event()
        self.down = 0

    async def list_version(self, resource: Any, namespace: str | None) -> tuple[list[dict[str, Any]], str]:
        if self.down:
            self.down -= 1
            raise Unreachable("down")
        if self.asked:
            self.handled.set()
        self.asked.append(("list", namespace, resource.selector))
        return [], "7"

    async def list_all(self, resource: Any, namespace: str | None) -> AsyncIterator[dict[str, Any]]:
        for lease in self.leases:
            yield lease

    async def watch(self, resource: Any, namespace: str | None, **options: Any) -> AsyncIterator[WatchEvent]:
        self.asked.append((options["resource_version"], namespace, resource.selector))
        assert options["bookmarks"]
        while True:
            event = await self.events.get()
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event
            self.handled.set()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def ports(api: Api) -> Ports:
    mirror = Mirror(lambda: 0.0)
    for body in (node_body(), cache_body(), deployment_body()):
        mirror.put(body["kind"], body)
    mirror.unplaced.add((NS, f"{NAME}-1"))
    mirror.synced = True
    settings = Settings(namespace="kigi-system", identity="x")
    now = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
    return Ports(kube=api, mirror=mirror, queue=WorkQueue(), settings=settings, now=now)  # type: ignore[arg-type]


@pytest.fixture
async def watching(api: Api, ports: Ports) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watch_heartbeats(ports, times=QUICK))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def send(api: Api, event: WatchEvent | Exception | None) -> None:
    """Streams an event, and returns when it was handled or the next listing began."""
    api.handled.clear()
    api.events.put_nowait(event)
    async with asyncio.timeout(10):
        await api.handled.wait()


def queued(ports: Ports) -> set[str]:
    return {key.kind for key in (*ports.queue._queued, *ports.queue._timers)}


async def test_only_kigis_namespace_and_the_label_are_watched(api: Api, watching: asyncio.Task[None]) -> None:
    await send(api, WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "8"}}))
    assert set(api.asked) == {
        ("list", "kigi-system", "node.kigi.dev/heartbeat"),
        ("7", "kigi-system", "node.kigi.dev/heartbeat"),
    }


async def test_a_heartbeat_enqueues_nothing_and_a_return_enqueues_what_waits(
    api: Api, ports: Ports, watching: asyncio.Task[None]
) -> None:
    await send(api, WatchEvent("ADDED", lease_body(version=1)))
    assert ports.mirror.heartbeats.is_alive("n1")
    assert queued(ports) == {"node", "instance"}
    ports.queue.clear()
    for number in range(2, 200):
        await send(api, WatchEvent("MODIFIED", lease_body(version=number, renewed=f"t{number}")))
    assert queued(ports) == set()


async def test_a_deleted_lease_ends_the_life_of_its_node(api: Api, ports: Ports, watching: asyncio.Task[None]) -> None:
    await send(api, WatchEvent("ADDED", lease_body(version=1)))
    await send(api, WatchEvent("DELETED", lease_body(version=2)))
    assert not ports.mirror.heartbeats.is_alive("n1")


async def test_after_a_gap_the_listing_counts(api: Api, ports: Ports, watching: asyncio.Task[None]) -> None:
    await send(api, WatchEvent("ADDED", lease_body("n1", 1, "t1")))
    await send(api, WatchEvent("ADDED", lease_body("n2", 2, "t1")))
    api.leases = [lease_body("n1", 9, "t9")]
    await send(api, Unreachable("cut"))
    await send(api, WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
    assert list(ports.mirror.heartbeats) == ["n1"], "the Lease of n2 was deleted meanwhile"
    assert ports.mirror.heartbeats.is_alive("n1")


async def test_an_api_server_that_is_away_is_asked_again(api: Api, ports: Ports, watching: asyncio.Task[None]) -> None:
    await send(api, WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "8"}}))
    api.down = 3
    await send(api, Unreachable("cut"))
    await send(api, WatchEvent("ADDED", lease_body(version=1)))
    assert ports.mirror.heartbeats.is_alive("n1")
    assert (api.down, watching.done()) == (0, False)


async def test_a_listing_is_taken_in_before_the_first_decision(api: Api, ports: Ports) -> None:
    api.leases = [lease_body("n1", 1, "2026-01-01T00:00:00Z"), lease_body("n2", 2, "2025-12-01T00:00:00Z")]
    ports.mirror.synced = False
    await list_heartbeats(ports)
    assert [ports.mirror.heartbeats.is_alive(node) for node in ("n1", "n2")] == [True, False]
    assert queued(ports) == set(), "the first reconcile of every key follows"
