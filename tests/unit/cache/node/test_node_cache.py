"""The keeper against an API in memory: what it writes, when, and what it does first."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from kigi.api.base import Metadata
from kigi.api.node_cache import CachedLayer, CaptureReport, NodeCache, NodeCacheSpec, NodeCacheStatus, WantedLayer
from kigi.errors import OverlayRejected, Unreachable, VolumeInUse
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node import node_cache
from kigi_cache.node.kube import Seen
from kigi_cache.node.node_cache import NodeCacheKeeper
from tests.support.cluster import eventually_async

MIB = 2**20
DIGEST = f"sha256:{1:064x}"
WANTED = WantedLayer(digest=DIGEST, size_bytes=MIB, virtual_size_bytes=MIB)


class Api:
    """One NodeCache and the order of all writes."""

    def __init__(self) -> None:
        self.cache: NodeCache | None = None
        self.writes: list[tuple[float, NodeCacheStatus]] = []
        self.events: list[tuple[str, str]] = []
        self.down = False
        self._news: asyncio.Queue[NodeCache | None] = asyncio.Queue()

    def put(self, generation: int, uid: str = "u1", **spec: Any) -> None:
        metadata = Metadata(name="a", uid=uid, generation=generation)
        self.cache = NodeCache(metadata=metadata, spec=NodeCacheSpec(**spec))
        self._news.put_nowait(self.cache)

    async def get(self) -> Seen:
        self._check()
        return Seen(self.cache, "1")

    async def watch(self, resource_version: str) -> AsyncIterator[NodeCache | None]:
        while True:
            self._check()
            try:
                yield await asyncio.wait_for(self._news.get(), 0.05)
            except TimeoutError:
                continue

    async def write_status(self, status: NodeCacheStatus) -> None:
        self._check()
        self.writes.append((time.monotonic(), status))

    async def warn(self, uid: str, reason: str, message: str) -> None:
        self._check()
        self.events.append((reason, message))

    def _check(self) -> None:
        if self.down:
            raise Unreachable("the API server is gone")


class Captures:
    """None are ordered."""

    async def act(self, orders: Sequence[object]) -> bool:
        return False

    def reports(self) -> list[CaptureReport]:
        return []

    def is_waiting(self) -> bool:
        return False


class Supply:
    def __init__(self) -> None:
        self.wanted: list[Sequence[WantedLayer]] = []
        self.state = "Held"
        self.fetched = MIB

    def want(self, layers: Sequence[WantedLayer]) -> None:
        self.wanted.append(list(layers))

    def snapshot(self) -> FillState:
        layer = {"digest": DIGEST, "state": self.state, "sizeBytes": MIB, "fetchedBytes": self.fetched}
        return FillState([CachedLayer.model_validate(layer)], 100, self.fetched, 50, self.fetched)


class Volumes:
    def __init__(self) -> None:
        self.condemned: frozenset[str] = frozenset()
        self.present: dict[str, bool] = {}

    def overlays(self) -> list[Volume]:
        return [Volume(name, mounted) for name, mounted in sorted(self.present.items())]

    async def discard(self, handle: str) -> None:
        if self.present[handle]:
            raise VolumeInUse(handle)
        del self.present[handle]


class World:
    def __init__(self) -> None:
        self.api, self.supply, self.volumes = Api(), Supply(), Volumes()
        self.keeper = NodeCacheKeeper(self.api, self.volumes, self.supply, Captures())  # type: ignore[arg-type]

    @property
    def last(self) -> NodeCacheStatus | None:
        return self.api.writes[-1][1] if self.api.writes else None

    async def until(self, check: Callable[[NodeCacheStatus], object]) -> NodeCacheStatus:
        found = await eventually_async(lambda: self.last is not None and check(self.last) and self.last, 10)
        assert found
        return found

    def ready(self) -> str:
        assert self.last is not None
        return next(c.status for c in self.last.conditions if c.type == "Ready")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.keeper.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_generation_is_observed_once_it_was_acted_on(world: World) -> None:
    world.volumes.present = {"a.r1": False, "keep.r1": False}
    world.api.put(4, layers=[WANTED], discard=["a.r1"])
    status = await world.until(lambda s: s.observed_generation == 4)
    assert [v.name for v in status.volumes] == ["keep.r1"]
    assert [layer.digest for layer in world.supply.wanted[-1]] == [DIGEST]
    assert world.volumes.condemned == {"a.r1"}
    assert world.ready() == "True"


async def test_an_overlay_in_use_is_deleted_when_it_is_let_go(world: World) -> None:
    world.volumes.present = {"a.r1": True}
    world.api.put(1, discard=["a.r1"])
    status = await world.until(lambda s: s.observed_generation == 1)
    assert [(v.name, v.mounted) for v in status.volumes] == [("a.r1", True)]
    assert world.ready() == "False"
    world.volumes.present = {"a.r1": False}
    world.keeper.changed()
    await world.until(lambda s: s.volumes == [])
    assert world.ready() == "True"


async def test_bytes_are_told_once_a_second_and_never_go_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "WRITE_INTERVAL_S", 0.4)
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    started = time.monotonic()
    while time.monotonic() - started < 2.1:
        world.supply.fetched += 1000 if time.monotonic() - started < 1.5 else -500
        world.keeper.changed()
        await asyncio.sleep(0.02)
    writes = [(at, s.layers[0].fetched_bytes) for at, s in world.api.writes]
    assert 2 <= len(writes) <= 2 + 2.1 / 0.4
    assert all(later - earlier >= 0.39 for (earlier, _), (later, _) in itertools.pairwise(writes))
    assert [b for _, b in writes] == sorted(b for _, b in writes)


async def test_a_layer_that_is_complete_is_told_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "WRITE_INTERVAL_S", 600.0)
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.supply.state, world.supply.fetched = "Held", MIB
    world.keeper.changed()
    await world.until(lambda s: s.layers[0].state == "Held")


async def test_bytes_are_told_although_nobody_announces_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "WRITE_INTERVAL_S", 0.1)
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.supply.fetched = 700
    await world.until(lambda s: s.layers[0].fetched_bytes == 700)


async def test_nothing_new_is_only_a_heartbeat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "HEARTBEAT_S", 0.5)
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    before = len(world.api.writes)
    for _ in range(20):
        world.keeper.changed()
        await asyncio.sleep(0.06)
    assert 1 <= len(world.api.writes) - before <= 3


async def test_silence_of_the_api_server_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "BACKOFF_S", (0.05, 0.1))
    monkeypatch.setattr(node_cache, "WRITE_INTERVAL_S", 0.1)
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.down = True
    world.volumes.present = {"b.r1": True}
    world.keeper.changed()
    world.keeper.volume_failed("b.r1", OverlayRejected("bad"))
    world.api.put(2, layers=[])
    await asyncio.sleep(0.5)
    assert world.last is not None
    assert world.last.volumes == []
    world.api.down = False
    status = await world.until(lambda s: s.observed_generation == 2)
    assert [v.name for v in status.volumes] == ["b.r1"]
    assert world.keeper.unready() == ""
    await eventually_async(lambda: world.api.events == [("OverlayRejected", "b.r1: bad")])


async def test_a_long_silence_makes_the_node_unready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "API_SILENCE_S", 0.2)
    monkeypatch.setattr(node_cache, "HEARTBEAT_S", 0.05)
    world.api.put(1)
    await world.until(lambda s: s.observed_generation == 1)
    assert world.keeper.unready() == ""
    world.api.down = True
    await asyncio.sleep(0.4)
    assert "silent" in world.keeper.unready()


async def test_an_object_made_again_is_acted_on_although_its_generation_is_the_same(world: World) -> None:
    world.api.put(1, uid="u1", layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.put(1, uid="u2", layers=[])
    await eventually_async(lambda: world.supply.wanted[-1] == [])
    await world.until(lambda s: "no layer is wanted" in s.conditions[0].message)


async def test_a_person_is_told_once(world: World) -> None:
    world.api.put(1)
    for _ in range(5):
        world.keeper.volume_failed("a.r1", OverlayRejected("its header is another"))
        world.keeper.volume_failed("a.r1", VolumeInUse("busy"))
    world.keeper.volume_failed("b.r1", OverlayRejected("its header is another"))
    await eventually_async(lambda: len(world.api.events) == 2)
    assert world.api.events[0] == ("OverlayRejected", "a.r1: its header is another")
