"""Warning events: how often, and what happens while the API server does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kigi.errors import Unreachable
from kigi_cache.node.events import (
    MAX_ATTEMPTS,
    MAX_OF_REASON,
    MAX_QUEUED,
    REPEAT_AFTER_S,
    RETRY_S,
    EventReporter,
)
from tests.support.manual_clock import ManualClock


class Sender:
    """Records what is sent; fails ``failures`` times before."""

    def __init__(self) -> None:
        self.attempts = 0
        self.failures = 0
        self.sent: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def send(self, reason: str, message: str) -> None:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise Unreachable("no answer")
        self.sent.put_nowait((reason, message))


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def reporter(sender: Sender, time: ManualClock) -> AsyncIterator[EventReporter]:
    made = EventReporter(sender.send, time.clock)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_is_sent_once_in_five_minutes_for_each_subject(
    reporter: EventReporter, sender: Sender, time: ManualClock
) -> None:
    for subject in ("a", "a", "b"):
        reporter.warn("OverlayRejected", subject, f"about {subject}")
    assert [await sender.sent.get() for _ in range(2)] == [
        ("OverlayRejected", "about a"),
        ("OverlayRejected", "about b"),
    ]
    time.advance(REPEAT_AFTER_S - 1)
    reporter.warn("OverlayRejected", "a", "too early")
    time.advance(1)
    reporter.warn("OverlayRejected", "a", "again")
    assert await sender.sent.get() == ("OverlayRejected", "again")
    assert sender.sent.empty()


async def test_an_event_is_retried_until_the_api_server_answers(
    reporter: EventReporter, sender: Sender, time: ManualClock
) -> None:
    sender.failures = 2
    reporter.warn("LayerCorrupt", "a", "x")
    for _ in range(2):
        assert await time.next_wake() == time.now_s + RETRY_S
        time.advance(RETRY_S)
    assert await sender.sent.get() == ("LayerCorrupt", "x")


async def test_an_event_that_is_always_refused_does_not_block_the_others(
    reporter: EventReporter, sender: Sender, time: ManualClock
) -> None:
    sender.failures = MAX_ATTEMPTS
    reporter.warn("LayerCorrupt", "a", "refused")
    reporter.warn("LayerCorrupt", "b", "accepted")
    for _ in range(MAX_ATTEMPTS):
        await time.next_wake()
        time.advance(RETRY_S)
    assert await sender.sent.get() == ("LayerCorrupt", "accepted")


async def test_a_storm_of_events_is_bounded(reporter: EventReporter, sender: Sender, time: ManualClock) -> None:
    """The repository is away for a day: each of a hundred layers is refused each minute."""
    day_s = 24 * 3600
    for _ in range(day_s // 60):
        time.advance(60)
        for number in range(100):
            reporter.warn("RepositoryUnreachable", f"layer {number}", "away")
        await asyncio.sleep(0)
        assert len(reporter._emitted) <= MAX_OF_REASON
    assert sender.attempts <= MAX_OF_REASON * (day_s / REPEAT_AFTER_S + 1)
    reporter.warn("LayerCorrupt", "layer 1", "another reason has its own number")
    while (await sender.sent.get())[0] != "LayerCorrupt":
        pass


async def test_events_that_cannot_be_sent_do_not_pile_up(sender: Sender, time: ManualClock) -> None:
    reporter = EventReporter(sender.send, time.clock)
    for number in range(10_000):
        time.advance(100)
        reporter.warn("LayerCorrupt", str(number), str(number))
    assert len(reporter._emitted) <= MAX_OF_REASON
    task = asyncio.create_task(reporter.run())
    found = [await sender.sent.get() for _ in range(MAX_QUEUED)]
    assert found[-1] == ("LayerCorrupt", str(MAX_QUEUED - 1)), "later ones were dropped"
    time.advance(REPEAT_AFTER_S)
    reporter.warn("LayerCorrupt", "later", "later")
    assert await sender.sent.get() == ("LayerCorrupt", "later")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
