"""The daemon over days: retries slow down, events stay few, and what it remembers stays small."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from kigi.api.node_cache import CaptureOrder
from kigi.domain.layers import Digest
from kigi.errors import RepositoryUnreachable, Unreachable
from kigi_cache.captures import copies as captures
from kigi_cache.captures import publisher
from kigi_cache.captures.copies import Captures, is_silent
from kigi_cache.captures.publisher import Publisher
from kigi_cache.disks import csi
from kigi_cache.disks.volumes import Volumes
from kigi_cache.node import node_cache
from kigi_cache.node.node_cache import EVENTS_OF_REASON, SAME_EVENT_S, NodeCacheKeeper
from tests.support.cluster import eventually_async
from tests.unit.cache.disks.test_csi import CHAIN
from tests.unit.cache.node.test_node_cache import WANTED, World

DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


# Events.


def test_an_event_storm_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository is away for a day: each of a thousand layers is refused each minute."""
    clock = Clock()
    monkeypatch.setattr(node_cache, "time", clock)
    keeper = NodeCacheKeeper(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None))
    events = 0
    for _ in range(24 * 60):
        clock.now += 60
        for number in range(1000):
            keeper.warn("RepositoryUnreachable", digest(number), "away")
        while not keeper._events.empty():
            keeper._events.get_nowait()
            events += 1
        assert len(keeper._told) <= EVENTS_OF_REASON
    assert events <= EVENTS_OF_REASON * (DAY / SAME_EVENT_S + 1)
    keeper.warn("LayerCorrupt", digest(1), "another reason has its own number")
    assert keeper._events.get_nowait()[0] == "LayerCorrupt"


def test_events_that_cannot_be_written_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(node_cache, "time", clock)
    keeper = NodeCacheKeeper(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None))
    for number in range(100_000):
        clock.now += 100
        keeper.warn("LayerCorrupt", digest(number), "x")
    assert keeper._events.qsize() <= node_cache.WAITING_EVENTS
    assert len(keeper._told) <= EVENTS_OF_REASON


# The API server is away.


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.keeper.run())
    yield made
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_status_that_is_refused_is_written_ever_more_seldom_and_at_once_when_the_server_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "BACKOFF_S", (0.02, 30.0))
    world.api.put(1, layers=[WANTED])
    await world.until(lambda s: s.observed_generation == 1)
    tries = 0
    real = world.api.write_status

    async def refuse(status: Any) -> None:
        nonlocal tries
        tries += 1
        raise Unreachable("no")

    world.api.write_status = refuse  # type: ignore[method-assign]
    world.volumes.present = {"b.r1": True}
    world.keeper.changed()
    await asyncio.sleep(1.5)
    assert 2 <= tries <= 7
    world.api.write_status = real  # type: ignore[method-assign]
    world.api.put(1, layers=[WANTED])  # any sign of the API server
    await world.until(lambda s: [v.name for v in s.volumes] == ["b.r1"])


async def test_watches_that_break_at_once_are_opened_ever_more_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists are answered, watches are not: as behind a proxy that cuts long requests."""
    monkeypatch.setattr(node_cache, "BACKOFF_S", (0.01, 30.0))
    lists = 0
    real = world.api.get

    async def get() -> Any:
        nonlocal lists
        lists += 1
        return await real()

    async def watch(resource_version: str) -> AsyncIterator[Any]:
        raise Unreachable("cut")
        yield

    world.api.get, world.api.watch = get, watch  # type: ignore[method-assign, assignment]
    world.api.down = True
    await asyncio.sleep(0.1)
    world.api.down = False
    await asyncio.sleep(0.7)
    assert lists <= 12


async def test_watches_that_end_at_once_are_not_opened_without_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "BACKOFF_S", (0.1, 0.1))
    lists = 0
    real = world.api.get

    async def get() -> Any:
        nonlocal lists
        lists += 1
        return await real()

    async def watch(resource_version: str) -> AsyncIterator[Any]:
        return
        yield

    world.api.get, world.api.watch = get, watch  # type: ignore[method-assign, assignment]
    world.api.down = True
    await asyncio.sleep(0.2)
    world.api.down = False
    await asyncio.sleep(0.5)
    assert lists <= 9


# What is remembered.


def test_the_publisher_forgets_copies_that_are_gone(tmp_path: Path) -> None:
    made = Publisher(tmp_path, None)
    for number in range(1000):
        made._not_before[f"c{number}"] = float("inf")
    (tmp_path / "c7").mkdir()
    assert made._due() == []
    assert set(made._not_before) == {"c7"}


def test_a_copy_that_cannot_be_stored_for_a_week_is_tried_each_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)
    made = Publisher(tmp_path, None)
    (tmp_path / "c1").mkdir()
    waits: list[float] = []
    for _ in range(7 * 24 * 60):
        made._retry_later(tmp_path / "c1", publisher.RETRY_S)
        waits.append(made._not_before["c1"] - clock.now)
        clock.now = made._not_before["c1"]
    assert waits[:5] == [5, 10, 20, 40, 60]
    assert set(waits[5:]) == {publisher.REFUSED_AGAIN_S}
    (tmp_path / "c1").rmdir()
    assert made._due() == []
    assert made._failures == made._not_before == {}


async def test_calls_that_give_up_on_a_long_fill_leave_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet asks for a volume each two minutes, for as long as its layers take: hours, from a store far away."""
    asked = 0
    end = asyncio.Event()

    class Slow:
        async def ensure(self, chain: Any, *, priority: int) -> None:
            nonlocal asked
            asked += 1
            await end.wait()
            raise RepositoryUnreachable("gone")

        def describe(self, chain: Any) -> str:
            return "1 of 3"

    plugin = csi.NodePlugin("n", cast(Any, None), cast(Any, Slow()), cast(Any, None))
    chain = csi.parse_chain(json.dumps(CHAIN))
    for _ in range(300):
        with pytest.raises(csi.Refused, match="on their way"):
            await plugin._fill(chain, 0.0)
    assert (asked, len(plugin._running)) == (1, 1)
    end.set()
    with pytest.raises(RepositoryUnreachable):
        await plugin._fill(chain, 5.0)
    await asyncio.sleep(0)
    assert (plugin._running, plugin._fills) == (set(), {})


# Retries.


async def test_a_copy_that_the_disk_refuses_to_settle_is_not_tried_twice_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def refuse(path: Path) -> None:
        nonlocal tries
        tries += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(captures, "_sync", refuse)
    monkeypatch.setattr(captures, "SETTLE_RETRY_S", 0.2)
    made = Captures(tmp_path, cast(Volumes, None))
    made.recover()
    (tmp_path / "captures" / "c" / "chain").mkdir(parents=True)
    order = CaptureOrder(
        id="c", volume="v", parent="sha256:" + "1" * 64, virtual_size_bytes=512, action="Keep", mounted=False
    )
    for _ in range(100):
        await made.act([order])
        await asyncio.sleep(0)
    await eventually_async(lambda: tries == 1)
    await asyncio.sleep(0.3)
    await made.act([order])
    await eventually_async(lambda: tries == 2)
    await made.close()


# Clocks.


@pytest.mark.parametrize(
    ("beat", "now", "silent"),
    [
        (1000.0, 1010.0, False),
        (1000.0, 1061.0, True),
        (4600.0, 1000.0, False),
        (1000.0, 4600.0, True),
        (None, 1.0, False),
    ],
    ids=["fresh", "old", "set-back", "set-forward", "never"],
)
def test_silence_of_the_publisher_and_a_clock_that_is_set(beat: float | None, now: float, silent: bool) -> None:
    """Both times are of one machine. Set forward, it seems silent until its next beat: BEAT_S."""
    assert is_silent(beat, 0.0, now) is silent
    assert captures.BEAT_S * 4 < captures.SILENT_AFTER_S


async def test_the_publisher_beats_on_after_a_disk_that_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "BEAT_S", 0.01)
    made = Publisher(tmp_path / "absent", None)
    task = asyncio.create_task(made._beat())
    await asyncio.sleep(0.05)
    (tmp_path / "absent").mkdir()
    await eventually_async(lambda: (tmp_path / "absent" / captures.BEAT).exists())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
