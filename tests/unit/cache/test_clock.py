"""Real time and manual time behave alike, but for the waiting."""

from __future__ import annotations

import asyncio
import time

import pytest

from kigi_cache.clock import Clock
from tests.support.manual_clock import EPOCH_S, ManualClock


def test_the_default_is_real_time() -> None:
    clock = Clock()
    assert abs(clock.wall_s() - time.time()) < 5
    assert abs(clock.monotonic_s() - time.monotonic()) < 5


async def test_a_wait_ends_with_the_event_or_with_its_timeout() -> None:
    manual = ManualClock()
    event = asyncio.Event()
    waiting = asyncio.create_task(manual.clock.wait(event, 30.0))
    assert await manual.next_wake() == 30.0
    manual.advance(30.0)
    assert await waiting is False

    waiting = asyncio.create_task(manual.clock.wait(event, 30.0))
    assert await manual.next_wake() == 60.0
    event.set()
    assert await waiting is True
    await asyncio.sleep(0)
    assert manual.pending() == [], "the other wait was cancelled"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
async def test_a_wait_without_time_checks_the_event_once(timeout_s: float) -> None:
    event = asyncio.Event()
    assert await Clock().wait(event, timeout_s) is False
    event.set()
    assert await Clock().wait(event, timeout_s) is True


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    manual = ManualClock()
    waiting = asyncio.create_task(manual.clock.wait(asyncio.Event(), 30.0))
    await manual.next_wake()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert manual.pending() == []


async def test_manual_time_wakes_only_the_sleeps_whose_end_has_come() -> None:
    manual = ManualClock()
    clock = manual.clock
    sleeps = [asyncio.ensure_future(clock.sleep(seconds)) for seconds in (5.0, 10.0)]
    assert await manual.next_wake() == 5.0
    manual.advance(7.0)
    await sleeps[0]
    assert manual.pending() == [10.0]
    assert clock.wall_s() == EPOCH_S + 7.0
    manual.advance(3.0)
    await sleeps[1]


def test_blocking_advances_manual_time() -> None:
    manual = ManualClock()
    manual.clock.block(2.5)
    manual.clock.block(0.5)
    assert (manual.clock.monotonic_s(), manual.blocked_s) == (3.0, [2.5, 0.5])
