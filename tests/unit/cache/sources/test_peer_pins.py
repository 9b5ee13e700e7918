"""What other nodes have published: few questions to the API server, whatever peers show. Time is manual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kigi.errors import Unreachable
from kigi_cache.sources.peer_pins import AGAIN_S, KNOWN_FOR_S, READS_PER_S, PublishedPins
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon

OLD, NEW = "a" * 64, "b" * 64


class Api:
    """Leases in memory; counts how often each is read."""

    def __init__(self) -> None:
        self.leases: dict[str, set[str]] = {"b": {OLD}}
        self.read: list[str] = []
        self.down = False
        self.waits: asyncio.Event | None = None

    async def peer_certificates(self, node: str) -> frozenset[str]:
        self.read.append(node)
        if self.waits is not None:
            await self.waits.wait()
        if self.down:
            raise Unreachable("silent")
        return frozenset(self.leases.get(node, ()))


def node_of(peer: str) -> str | None:
    return peer.removesuffix(":1") if peer.endswith(":1") else None


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def pins(api: Api, time: ManualClock) -> Callable[[], PublishedPins]:
    return lambda: PublishedPins(api, node_of, time.clock)


async def test_a_node_is_read_once(api: Api, time: ManualClock, pins: Callable[[], PublishedPins]) -> None:
    published = pins()
    for _ in range(1000):
        assert await published.read("b:1") == {OLD}
        time.advance(3.0)
        assert api.read == ["b"]
    time.advance(KNOWN_FOR_S)
    assert await published.read("b:1") == {OLD}
    assert api.read == ["b", "b"]


async def test_an_address_that_is_no_member_is_not_looked_up(api: Api, pins: Callable[[], PublishedPins]) -> None:
    assert await pins().read("10.9.9.9:2") == set()
    assert api.read == []


async def test_another_certificate_is_looked_up_once_in_a_while(
    api: Api, time: ManualClock, pins: Callable[[], PublishedPins]
) -> None:
    published = pins()
    await published.read("b:1")
    api.leases["b"] = {NEW}
    assert await published.read("b:1", is_refused=True) == {OLD}, "it was read just now"
    time.advance(AGAIN_S)
    assert await published.read("b:1", is_refused=True) == {NEW}
    for _ in range(100):  # a stranger at the address
        assert await published.read("b:1", is_refused=True) == {NEW}
        time.advance(AGAIN_S / 100)
    assert api.read == ["b", "b"]


async def test_a_daemon_without_certificates_is_looked_up_again(
    api: Api, time: ManualClock, pins: Callable[[], PublishedPins]
) -> None:
    published = pins()
    for _ in range(10):
        assert await published.read("old:1") == set()
    time.advance(AGAIN_S)
    api.leases["old"] = {NEW}
    assert await published.read("old:1") == {NEW}
    assert api.read == ["old", "old"]


async def test_a_silent_api_server_costs_one_request_in_a_while_and_takes_back_nothing(
    api: Api, time: ManualClock, pins: Callable[[], PublishedPins]
) -> None:
    published = pins()
    await published.read("b:1")
    api.down = True
    time.advance(KNOWN_FOR_S)
    assert await published.read("b:1") == {OLD}
    for number in range(50):
        assert await published.read(f"{number}:1") == set()
    assert api.read == ["b", "b"]
    time.advance(AGAIN_S)
    api.down = False
    api.leases["7"] = {NEW}
    assert await published.read("7:1") == {NEW}


async def test_many_readings_of_one_node_are_one(api: Api, pins: Callable[[], PublishedPins]) -> None:
    api.waits = asyncio.Event()
    published = pins()
    readings = [asyncio.create_task(published.read("b:1")) for _ in range(50)]
    await soon(lambda: api.read == ["b"])
    api.waits.set()
    assert await asyncio.gather(*readings) == [{OLD}] * 50
    assert api.read == ["b"]


async def test_readings_of_many_nodes_wait_for_their_turn_or_do_not_happen(
    api: Api, time: ManualClock, pins: Callable[[], PublishedPins]
) -> None:
    published = pins()
    readings = [asyncio.create_task(published.read(f"{number}:1")) for number in range(100)]
    await soon(lambda: len(api.read) == READS_PER_S)
    for second in (1, 2):
        await time.next_wake()
        time.advance(1.0)
        await soon(lambda second=second: len(api.read) == READS_PER_S * (second + 1))  # type: ignore[misc]
    await asyncio.gather(*readings)
    assert len(api.read) == 3 * READS_PER_S


async def test_threads_ask_the_event_loop(api: Api, time: ManualClock, pins: Callable[[], PublishedPins]) -> None:
    published = pins()
    assert await asyncio.to_thread(published.of, "b:1") == {OLD}
    api.leases["b"] = {NEW}
    time.advance(AGAIN_S)
    assert await asyncio.to_thread(published.of, "b:1") == {OLD}
    assert await asyncio.to_thread(published.again, "b:1") == {NEW}
    assert published.of("b:1") == {NEW}, "what is remembered needs no event loop"


async def test_a_thread_waits_a_few_seconds_at_most(
    api: Api, pins: Callable[[], PublishedPins], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kigi_cache.sources.peer_pins.READ_WAIT_S", 0.05)
    api.waits = asyncio.Event()
    assert await asyncio.to_thread(pins().of, "b:1") == set()
