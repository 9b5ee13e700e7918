"""The daemon's only access to time: clocks and waits as values, so that a test replaces them instead of waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks and two ways to wait, all in seconds. ``Clock()`` is real time.

    Tests pass a ``tests.support.manual_clock.ManualClock``, whose time moves only when the test advances it.
    """

    wall_s: Callable[[], float] = time.time
    """Seconds since the epoch; for times that are stored. May jump when the node's clock is set."""
    monotonic_s: Callable[[], float] = time.monotonic
    """Never jumps; for delays and deadlines. Its zero is arbitrary."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    """For coroutines."""
    block: Callable[[float], object] = time.sleep
    """For threads: blocks the calling one."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set, at most ``timeout_s``. True if it is set."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.sleep(timeout_s))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return event.is_set()


REAL_TIME = Clock()
