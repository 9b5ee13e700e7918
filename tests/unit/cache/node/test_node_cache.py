"""The keeper against an API in memory: what it writes, when, and what it does first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from kigi.api.base import Metadata
from kigi.api.node_cache import (
    CachedLayer,
    CaptureReport,
    NodeCache,
    NodeCacheSpec,
    NodeCacheStatus,
    WantedLayer,
)
from kigi.api.node_facts import NodeFacts
from kigi.errors import OverlayRejected, Unreachable, VolumeInUse
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.kube import Seen
from kigi_cache.node.node_cache import LEAST_INTERVAL_S, NodeCacheKeeper
from tests.support.manual_clock import ManualClock

MIB = 2**20
EMPTY = {"node_name": "n", "operator_protocol": 2, "protocol": 2}
DIGEST = f"sha256:{1:064x}"
WANTED = WantedLayer(digest=DIGEST, size_bytes=MIB, virtual_size_bytes=MIB, repository_name="default", purpose="Disk")


class Api:
    """One NodeCache and the order of all writes."""

    def __init__(self, time: ManualClock) -> None:
        self._time = time
        self.cache: NodeCache | None = None
        self.writes: list[tuple[float, NodeCacheStatus]] = []
        self.events: list[tuple[str, str]] = []
        self.down = False
        self.lists = self.refused = 0
        self.refuses_status = self.refuses_lease = False
        self.beats: list[tuple[float, str]] = []
        """Time of each renewal of the Lease, and uid of its owner."""
        self.published: list[tuple[str, ...]] = []
        """Fingerprints in each renewal."""
        self.watches = "last"
        """Or they break, or end, as soon as they are opened."""
        self._news: asyncio.Queue[NodeCache | None] = asyncio.Queue()

    def put(self, generation: int, uid: str = "u1", **spec: Any) -> None:
        metadata = Metadata(name="a", uid=uid, generation=generation)
        status = self.cache.status if self.cache is not None and self.cache.metadata.uid == uid else NodeCacheStatus()
        self.cache = NodeCache(metadata=metadata, spec=NodeCacheSpec.model_validate(EMPTY | spec), status=status)
        self._news.put_nowait(self.cache)

    async def get(self) -> Seen:
        self._check()
        self.lists += 1
        return Seen(self.cache, "1")

    async def watch(self, resource_version: str) -> AsyncIterator[NodeCache | None]:
        if self.watches == "break":
            raise Unreachable("the watch was cut")
        while self.watches == "last":
            self._check()
            cache = await self._news.get()
            self._check()
            yield cache

    async def write_status(self, status: NodeCacheStatus) -> None:
        self._check()
        if self.refuses_status:
            self.refused += 1
            raise Unreachable("refused")
        self.writes.append((self._time.now_s, status))
        if self.cache is not None:
            self.cache = self.cache.model_copy(update={"status": status})

    async def renew_lease(self, owner: Metadata, certificates: Sequence[str] = ()) -> None:
        self._check()
        if self.refuses_lease:
            raise Unreachable("refused")
        self.beats.append((self._time.now_s, owner.uid))
        self.published.append(tuple(certificates))

    async def warn(self, uid: str, reason: str, message: str) -> None:
        self._check()
        self.events.append((reason, message))

    def _check(self) -> None:
        if self.down:
            raise Unreachable("the API server is gone")


class Captures:
    """None are ordered."""

    def __init__(self) -> None:
        self.waiting = False
        self.found: list[CaptureReport] = []

    async def reconcile(self, orders: Sequence[object]) -> bool:
        return False

    def reports(self) -> list[CaptureReport]:
        return self.found

    def is_waiting(self) -> bool:
        return self.waiting


class Certificates:
    """Fingerprints that the daemon shows to its peers."""

    def __init__(self) -> None:
        self.shown: tuple[str, ...] = ()
        self.known: list[tuple[str, ...]] = []

    def fingerprints(self) -> tuple[str, ...]:
        return self.shown

    def published(self, fingerprints: Sequence[str]) -> None:
        self.known.append(tuple(fingerprints))


class Supply:
    def __init__(self) -> None:
        self.wanted: list[Sequence[WantedLayer]] = []
        self.state = "Held"
        self.fetched, self.free = MIB, 50

    def want(self, layers: Sequence[WantedLayer]) -> None:
        self.wanted.append(list(layers))

    def snapshot(self) -> FillState:
        layer = CachedLayer(digest=DIGEST, state=self.state, size_bytes=MIB, fetched_bytes=self.fetched)
        return FillState([layer], 100, self.fetched, self.free, 0, self.fetched)


class Volumes:
    def __init__(self) -> None:
        self.to_discard: frozenset[str] = frozenset()
        self.present: dict[str, bool] = {}
        self.error: OSError | None = None

    def overlays(self) -> list[Volume]:
        if self.error is not None:
            raise self.error
        return [Volume(name, mounted) for name, mounted in sorted(self.present.items())]

    async def discard(self, handle: str) -> None:
        if self.present[handle]:
            raise VolumeInUse(handle)
        del self.present[handle]


class InlineExecutor(ThreadPoolExecutor):
    """Runs what is given to threads in the event loop's own, so that all is done when the loop is idle."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except OSError as exc:
            future.set_exception(exc)
        return future


async def run_until_idle() -> None:
    """Let the event loop run until every coroutine sleeps or waits: none takes as many turns."""
    for _ in range(40):
        await asyncio.sleep(0)


class World:
    """The keeper with everything around it, at a standstill between two steps of time."""

    def __init__(self) -> None:
        self.time = ManualClock()
        self.api, self.supply, self.volumes, self.captures = Api(self.time), Supply(), Volumes(), Captures()
        self.certificates = Certificates()
        self.keeper = NodeCacheKeeper(
            self.api,
            self.volumes,
            self.supply,
            self.captures,
            certificates=self.certificates,
            clock=self.time.clock,
        )

    @property
    def last(self) -> NodeCacheStatus | None:
        return self.api.writes[-1][1] if self.api.writes else None

    async def announce(self) -> None:
        """Announce a change, and let the keeper act on it."""
        self.keeper.changed()
        await self.run_for(2 * LEAST_INTERVAL_S)

    async def step(self) -> None:
        """Advance to the end of the earliest sleep, and let everything run that can."""
        await run_until_idle()
        self.time.advance(max(0.0, await self.time.next_wake() - self.time.now_s))
        await run_until_idle()

    async def run_for(self, seconds: float) -> None:
        end_s = self.time.now_s + seconds
        await run_until_idle()
        while await self.time.next_wake() <= end_s:
            await self.step()
        self.time.advance(end_s - self.time.now_s)

    async def until(self, check: Callable[[NodeCacheStatus], object], within_s: float = 60.0) -> NodeCacheStatus:
        """Step until the written status passes, at most for so long in the keeper's time."""
        end_s = self.time.now_s + within_s
        while self.last is None or not check(self.last):
            assert self.time.now_s < end_s, self.last
            await self.step()
        return self.last

    def ready(self) -> str:
        assert self.last is not None
        return next(c.status for c in self.last.conditions if c.type == "Ready")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    asyncio.get_running_loop().set_default_executor(InlineExecutor())
    task = asyncio.create_task(made.keeper.run())
    yield made
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


async def test_a_generation_is_observed_once_it_was_acted_on(world: World) -> None:
    world.volumes.present = {"a.r1": False, "keep.r1": False}
    world.api.put(4, layers=[WANTED], discard_volumes=["a.r1"])
    status = await world.until(lambda s: s.observed_generation == 4)
    assert [v.name for v in status.volumes] == ["keep.r1"]
    assert [layer.digest for layer in world.supply.wanted[-1]] == [DIGEST]
    assert world.volumes.to_discard == {"a.r1"}
    assert world.ready() == "True"


async def test_an_overlay_in_use_is_deleted_when_it_is_released(world: World) -> None:
    world.volumes.present = {"a.r1": True}
    world.api.put(1, discard_volumes=["a.r1"])
    status = await world.until(lambda s: s.observed_generation == 1)
    assert [(v.name, v.mounted) for v in status.volumes] == [("a.r1", True)]
    assert world.ready() == "False"
    world.volumes.present = {"a.r1": False}
    await world.announce()
    await world.until(lambda s: s.volumes == [])
    assert world.ready() == "True"


async def test_bytes_are_written_once_a_second_and_never_go_back(world: World) -> None:
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    for number in range(100):
        world.supply.fetched += 1000 if number < 70 else -500
        world.keeper.changed()
        await world.run_for(0.1)
    writes = [(at, s.layers[0].fetched_bytes) for at, s in world.api.writes]
    assert 7 <= len(writes) <= 2 + 10
    assert all(later - earlier >= 1.0 for (earlier, _), (later, _) in itertools.pairwise(writes))
    assert [b for _, b in writes] == sorted(b for _, b in writes)


async def test_a_layer_that_is_complete_is_reported_without_waiting(world: World) -> None:
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.supply.state, world.supply.fetched = "Held", MIB
    await world.announce()
    await world.until(lambda s: s.layers[0].state == "Held", within_s=0.3)


async def test_bytes_are_reported_although_they_are_not_announced(world: World) -> None:
    world.supply.state, world.supply.fetched = "Fetching", 0
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.supply.fetched = 700
    await world.until(lambda s: s.layers[0].fetched_bytes == 700, within_s=2.5)


async def test_an_unchanged_status_is_not_written_again_and_the_lease_is_renewed(world: World) -> None:
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    before = len(world.api.writes)
    for _ in range(65):
        await world.announce()
        await world.run_for(1.0)
    assert len(world.api.writes) == before
    times = [at for at, _ in world.api.beats]
    assert len(times) == 3, "immediately, and every thirty seconds"
    assert all(30 <= later - earlier <= 32 for earlier, later in itertools.pairwise(times))


async def test_an_idle_daemon_renews_its_lease_for_a_day_and_writes_nothing_else(world: World) -> None:
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    before = len(world.api.writes)
    await world.run_for(86_400.0)
    assert len(world.api.writes) == before
    assert 86_400 / 31 <= len(world.api.beats) <= 86_400 / 30 + 1


async def test_free_space_is_written_again_when_it_has_changed_by_a_fiftieth_of_the_budget(world: World) -> None:
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.free_bytes == 50)
    world.supply.free, before = 49, len(world.api.writes)
    await world.announce()
    assert len(world.api.writes) == before
    world.supply.free = 48
    await world.announce()
    await world.until(lambda s: s.free_bytes == 48, within_s=1.5)


async def test_a_spec_of_another_protocol_changes_nothing(world: World) -> None:
    world.volumes.present = {"a.r1": False}
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.put(2, operator_protocol=3, protocol=3, discard_volumes=["a.r1"])
    status = await world.until(lambda s: any(c.reason == "VersionSkew" for c in s.conditions))
    assert status.observed_generation == 1, "the spec was not acted on"
    assert len(world.supply.wanted) == 1, "what was wanted stays wanted"
    assert list(world.volumes.present) == ["a.r1"], "nothing is deleted by an order of unknown meaning"
    await world.run_for(60.0)
    assert world.api.beats[-1][0] > world.time.now_s - 40, "it is alive"


async def test_a_daemon_that_cannot_report_has_no_heartbeat(world: World) -> None:
    """Its last status is out of date, and the operator must not place disks by it."""
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.refuses_status = True
    world.volumes.present = {"b.r1": True}
    await world.announce()
    before = len(world.api.beats)
    await world.run_for(120.0)
    assert len(world.api.beats) == before
    world.api.refuses_status = False
    await world.until(lambda s: [v.name for v in s.volumes] == ["b.r1"])
    await world.run_for(1.0)
    assert len(world.api.beats) == before + 1


async def test_a_directory_that_cannot_be_read_ends_the_heartbeat(world: World) -> None:
    world.api.put(1)
    await world.until(lambda s: s.observed_generation == 1)
    world.volumes.error = OSError(5, "Input/output error")
    before = len(world.api.beats)
    await world.run_for(300.0)
    assert len(world.api.beats) <= before + 1


async def test_a_refused_lease_is_tried_again_and_delays_no_status_for_long(world: World) -> None:
    world.api.refuses_lease = True
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.volumes.present = {"b.r1": True}
    await world.announce()
    await world.until(lambda s: [v.name for v in s.volumes] == ["b.r1"], within_s=40)
    world.api.refuses_lease = False
    await world.run_for(40.0)
    assert world.api.beats


async def test_a_new_certificate_counts_as_published_when_the_lease_has_it(world: World) -> None:
    world.certificates.shown = ("first",)
    world.api.put(1)
    await world.until(lambda s: s.observed_generation == 1)
    await world.run_for(1.0)
    assert world.api.published == world.certificates.known == [("first",)]
    world.certificates.shown = ("first", "second")
    world.api.refuses_lease = True
    await world.run_for(60.0)
    assert world.certificates.known == [("first",)], "no peer can know the second one"
    world.api.refuses_lease = False
    await world.run_for(40.0)
    assert world.api.published[-1] == world.certificates.known[-1] == ("first", "second")


async def test_a_lease_belongs_to_the_object_that_exists(world: World) -> None:
    world.api.put(1, uid="u1")
    await world.until(lambda s: s.observed_generation == 1)
    await world.run_for(5.0)
    world.api.put(1, uid="u2")
    await world.run_for(5.0)
    assert [uid for _, uid in world.api.beats] == ["u1", "u2"], "Kubernetes deletes the Lease of u1 with it"


async def test_results_of_copies_are_polled_while_any_is_open(world: World) -> None:
    world.api.put(1)
    await world.until(lambda s: s.observed_generation == 1)
    world.captures.waiting = True
    await world.announce()
    await world.run_for(0.3)
    world.captures.found = [CaptureReport(id="c1", state="Storing")]
    await world.until(lambda s: [c.id for c in s.captures] == ["c1"], within_s=1.0)


async def test_silence_of_the_api_server_loses_nothing(world: World) -> None:
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.down = True
    world.volumes.present = {"b.r1": True}
    await world.announce()
    world.keeper.volume_failed("b.r1", OverlayRejected("bad"))
    world.api.put(2, layers=[])
    await world.run_for(30.0)
    assert world.last is not None
    assert world.last.volumes == []
    world.api.down = False
    status = await world.until(lambda s: s.observed_generation == 2)
    assert [v.name for v in status.volumes] == ["b.r1"]
    assert world.keeper.unready() == ""
    await world.run_for(30.0)
    assert world.api.events == [("OverlayRejected", "b.r1: bad")]


async def test_a_long_silence_makes_the_node_unready(world: World) -> None:
    world.api.put(1)
    await world.until(lambda s: s.observed_generation == 1)
    await world.run_for(120.0)
    assert world.keeper.unready() == "", "each heartbeat was answered"
    world.api.down = True
    await world.run_for(59.0)
    assert world.keeper.unready() == ""
    await world.run_for(62.0)
    assert "no answer from the API server for" in world.keeper.unready()
    world.api.down = False
    await world.run_for(61.0)
    assert world.keeper.unready() == ""


async def test_a_status_that_is_refused_is_written_less_and_less_often(world: World) -> None:
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.refuses_status = True
    world.volumes.present = {"b.r1": True}
    await world.announce()
    await world.run_for(300.0)
    assert 10 <= world.api.refused <= 18, "0.5 s, 1 s, 2 s, ... 30 s, each varied by a fifth"
    world.api.refuses_status = False
    world.api.put(1, layers=[WANTED])  # any sign of the API server
    await world.until(lambda s: [v.name for v in s.volumes] == ["b.r1"], within_s=1.0)


async def test_watches_that_break_immediately_are_opened_less_and_less_often(world: World) -> None:
    """Lists are answered, watches are not: as behind a proxy that cuts long requests."""
    world.api.put(1)
    world.api.watches = "break"
    await world.run_for(300.0)
    assert 10 <= world.api.lists <= 18


async def test_watches_that_end_immediately_are_opened_after_a_pause(world: World) -> None:
    world.api.put(1)
    world.api.watches = "end"
    await world.run_for(30.0)
    assert 50 <= world.api.lists <= 61


async def test_a_directory_that_cannot_be_read_is_tried_again(world: World) -> None:
    world.volumes.error = OSError(5, "Input/output error")
    world.api.put(1)
    await world.until(lambda s: s.conditions[0].reason == "CacheUnreadable")
    assert world.last is not None
    stalled = next(c for c in world.last.conditions if c.type == "Stalled")
    assert (stalled.status, "Input/output error" in stalled.message) == ("True", True)
    assert world.api.beats == [], "the node gets no new disks"
    world.volumes.error = None
    await world.until(lambda s: s.observed_generation == 1 and s.conditions[0].reason == "LayersHeld", within_s=2.0)


async def test_what_was_known_of_a_directory_stays_in_the_status(world: World) -> None:
    world.volumes.present = {"a.r1": True}
    world.api.put(1)
    await world.until(lambda s: [v.name for v in s.volumes] == ["a.r1"])
    world.volumes.error = OSError(5, "Input/output error")
    await world.announce()
    await world.until(lambda s: s.conditions[0].reason == "CacheUnreadable")
    assert world.last is not None
    assert [v.name for v in world.last.volumes] == ["a.r1"], "else the operator would take it for deleted"


async def test_an_object_made_again_is_acted_on_although_its_generation_is_the_same(world: World) -> None:
    world.api.put(1, uid="u1", layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    world.api.put(1, uid="u2", layers=[])
    await world.until(lambda s: "no layer is wanted" in s.conditions[0].message)
    assert world.supply.wanted[-1] == []


async def test_an_error_that_needs_a_person_is_one_event(world: World) -> None:
    world.api.put(1)
    for _ in range(5):
        world.keeper.volume_failed("a.r1", OverlayRejected("its header is another"))
        world.keeper.volume_failed("a.r1", VolumeInUse("busy"))
    world.keeper.volume_failed("b.r1", OverlayRejected("its header is another"))
    await world.run_for(5.0)
    assert world.api.events == [
        ("OverlayRejected", "a.r1: its header is another"),
        ("OverlayRejected", "b.r1: its header is another"),
    ]


async def test_a_restored_object_gets_its_status_again_and_its_spec_is_acted_on_whatever_its_generation(
    world: World,
) -> None:
    """After a restore of etcd, the operator waits for a report that was written, and uses a generation once more."""
    world.api.put(5, layers=[WANTED])
    await world.until(lambda status: status.observed_generation == 5)
    restored = world.api.cache
    assert restored is not None
    world.api.cache = restored.model_copy(update={"status": NodeCacheStatus(), "spec": NodeCacheSpec(**EMPTY)})
    world.api.writes.clear()
    world.supply.wanted.clear()
    world.api.watches = "end"
    world.api.put(5)
    await world.run_for(30)
    assert len(world.api.writes) == 1
    assert world.api.writes[0][1].observed_generation == 5
    assert world.supply.wanted == [[]]
    lists = world.api.lists
    await world.run_for(60)
    assert world.api.lists > lists
    assert len(world.api.writes) == 1, "a status that is stored as it was written is not written again"


async def test_an_operator_two_minor_versions_away_is_reported_and_obeyed(world: World) -> None:
    world.keeper._version = "0.1.4"
    world.api.put(1, layers=[WANTED], operator_version="0.2.0")
    status = await world.until(lambda s: s.observed_generation == 1)
    assert {c.type: c.status for c in status.conditions}["VersionSkew"] == "False"
    world.api.put(2, layers=[WANTED], operator_version="0.3.0")
    status = await world.until(lambda s: s.observed_generation == 2)
    found = next(c for c in status.conditions if c.type == "VersionSkew")
    assert (found.status, found.reason) == ("True", "VersionSkew")
    assert "0.1.4" in found.message
    assert "upgrade the daemon" in found.message


async def test_what_was_found_on_the_node_is_reported(world: World) -> None:
    world.api.put(1)
    status = await world.until(lambda s: s.observed_generation == 1)
    assert status.node is None
    world.keeper.facts = NodeFacts(file_system="xfs", features=["HardLinks"])
    await world.announce()
    status = await world.until(lambda s: s.node is not None)
    assert status.node == NodeFacts(file_system="xfs", features=["HardLinks"])
