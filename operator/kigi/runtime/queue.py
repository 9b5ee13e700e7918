"""A keyed work queue: a key is worked on by one worker at a time, and once for many enqueue_requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

from kigi.mirror.keys import Key
from kigi.runtime import metrics

BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 60.0
REST_MOST_S = 2.0
"""A key that takes long rests as long as it took, at most this, so that it never holds a worker all the time."""


class WorkQueue:
    """Keys that wait, those that are worked on, and those that are to be woken later.

    ``jitter`` gives a factor for each backoff; ``clock`` seconds of a monotonic clock.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._dirty: set[Key] = set()
        self._timers: dict[Key, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[Key, int] = {}
        self._some = asyncio.Event()

    def add(self, key: Key) -> None:
        """Wakes the key now: once more after the present pass, if there is one."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        if key in self._active:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._some.set()
        metrics.QUEUE_DEPTH.set(len(self._waiting))

    def add_after(self, key: Key, delay_s: float) -> None:
        """Wakes the key in a while; the earliest of several times counts."""
        if delay_s <= 0:
            self.add(key)
            return
        at = self._clock() + delay_s
        known = self._timers.get(key)
        if key in self._waiting or (known is not None and known[0] <= at):
            return
        if known is not None:
            known[1].cancel()
        self._timers[key] = (at, asyncio.get_running_loop().call_later(delay_s, self.add, key))

    def backoff(self, key: Key) -> float:
        """Seconds until the next try after one more failure: doubling, with jitter."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(BACKOFF_FIRST_S * 2 ** min(failures, 20), BACKOFF_MOST_S) * self._jitter())

    def succeeded(self, key: Key) -> None:
        """The next failure starts at the shortest backoff again."""
        self._failures.pop(key, None)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is worked on; timers may be set."""
        return not (self._waiting or self._active)

    async def run(self, workers: int, work: Callable[[Key], Awaitable[None]]) -> None:
        """Works until it is cancelled. ``work`` handles its own errors: one that escapes ends the queue."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(work))

    def clear(self) -> None:
        """Forgets every key and timer, as when leadership ends."""
        for _, timer in self._timers.values():
            timer.cancel()
        for container in (self._ready, self._waiting, self._active, self._dirty, self._timers, self._failures):
            container.clear()
        metrics.QUEUE_DEPTH.set(0)

    async def _worker(self, work: Callable[[Key], Awaitable[None]]) -> None:
        while True:
            while not self._ready:
                self._some.clear()
                await self._some.wait()
            key = self._ready.popleft()
            self._waiting.discard(key)
            self._active.add(key)
            started = self._clock()
            try:
                await work(key)
            finally:
                self._active.discard(key)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add_after(key, self._rest(self._clock() - started))

    @staticmethod
    def _rest(took_s: float) -> float:
        return 0.0 if took_s < 0.02 else min(took_s, REST_MOST_S)
