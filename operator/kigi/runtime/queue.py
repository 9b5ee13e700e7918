"""A keyed work queue: one worker per key at a time; requests for a queued key are merged.

Namespaces take turns, and none of them occupies all workers: the objects of one tenant, however many, do not hold up
those of another. Keys without a namespace count as one.

Source: Kubernetes client-go util/workqueue (add, add-after, rate-limited retries).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from kigi.mirror.keys import Key
from kigi.runtime import metrics

BACKOFF_FIRST_S = 0.2
BACKOFF_LONGEST_S = 60.0
MAX_DOUBLINGS = 20
COOLDOWN_LONGEST_S = 2.0
"""A key that was enqueued during its reconcile waits as long as that took, at most this. It cannot occupy a worker."""
RESERVED_WORKERS = 1
"""Workers that no single namespace occupies."""
SHORT_S = 0.02
"""A reconcile shorter than this needs no cooldown."""


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Prevents the call."""


Schedule = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after a delay in seconds."""


def _call_later(delay_s: float, function: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay_s, function)


class WorkQueue:
    """Queued, active and delayed keys.

    ``clock`` gives monotonic seconds, ``schedule`` delays calls by the same clock, ``jitter`` gives a factor for each
    backoff; tests replace them.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        schedule: Schedule = _call_later,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._clock, self._schedule, self._jitter = clock, schedule, jitter
        self._ready: OrderedDict[str, deque[Key]] = OrderedDict()
        """Queued keys by namespace; the namespace whose turn is next comes first."""
        self._busy: Counter[str] = Counter()
        """Active keys by namespace."""
        self._queued: set[Key] = set()
        self._active: dict[Key, float] = {}
        """Since when each of them is being reconciled, by the clock."""
        self._moved_s = clock()
        """When the last reconcile began or ended, or the first key came into an empty queue."""
        self._dirty: set[Key] = set()
        """Active keys that were enqueued meanwhile."""
        self._timers: dict[Key, tuple[float, Timer]] = {}
        self._failures: dict[Key, int] = {}
        self._not_empty = asyncio.Event()
        self._is_running = False

    def add(self, key: Key) -> None:
        """Enqueues the key now. A key that is being reconciled is reconciled once more afterwards."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        if key in self._active:
            self._dirty.add(key)
        elif key not in self._queued:
            if self.idle:
                self._moved_s = self._clock()
            self._queued.add(key)
            self._ready.setdefault(key.namespace, deque()).append(key)
            self._not_empty.set()
        metrics.QUEUE_DEPTH.set(len(self._queued))

    def add_after(self, key: Key, delay_s: float) -> None:
        """Enqueues the key after ``delay_s``; of several pending delays the earliest wins."""
        if delay_s <= 0:
            self.add(key)
            return
        at = self._clock() + delay_s
        pending = self._timers.get(key)
        if key in self._queued or (pending is not None and pending[0] <= at):
            return
        if pending is not None:
            pending[1].cancel()
        self._timers[key] = (at, self._schedule(delay_s, lambda: self.add(key)))

    def backoff(self, key: Key) -> float:
        """Counts one more failure; the seconds until the next attempt: doubling, with jitter."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(BACKOFF_FIRST_S * 2 ** min(failures, MAX_DOUBLINGS), BACKOFF_LONGEST_S) * self._jitter())

    def succeeded(self, key: Key) -> None:
        """The next failure begins with the shortest backoff again."""
        self._failures.pop(key, None)

    @property
    def idle(self) -> bool:
        """No key is queued or active; timers may be set."""
        return not (self._queued or self._active)

    def stuck(self, limit_s: float) -> list[str]:
        """One text for each reconcile that lasts longer than ``limit_s``, or for keys that wait so long for any.

        Keys of an operator that does not lead wait for nothing.
        """
        now = self._clock()
        found = [f"reconcile of {key} for {now - at:.0f} s" for key, at in self._active.items() if now - at > limit_s]
        if not found and self._is_running and self._queued and now - self._moved_s > limit_s:
            found.append(f"queue: {len(self._queued)} keys wait, and no reconcile began or ended for {limit_s:.0f} s")
        return found

    async def run(self, workers: int, work: Callable[[Key], Awaitable[None]]) -> None:
        """Runs until it is cancelled. ``work`` handles its own errors: one that escapes ends the queue."""
        share = max(1, workers - RESERVED_WORKERS)
        self._is_running, self._moved_s = True, self._clock()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(work, share))
        finally:
            self._is_running = False

    def clear(self) -> None:
        """Forgets every key and timer, as after the loss of leadership."""
        for _, timer in self._timers.values():
            timer.cancel()
        for container in (
            self._ready,
            self._queued,
            self._active,
            self._dirty,
            self._timers,
            self._failures,
            self._busy,
        ):
            container.clear()
        metrics.QUEUE_DEPTH.set(0)

    def _take(self, share: int) -> Key | None:
        """The next key of the first namespace that has fewer than ``share`` active keys; None: there is none."""
        for namespace in self._ready:
            if self._busy[namespace] < share:
                keys = self._ready[namespace]
                key = keys.popleft()
                if keys:
                    self._ready.move_to_end(namespace)
                else:
                    del self._ready[namespace]
                return key
        return None

    async def _worker(self, work: Callable[[Key], Awaitable[None]], share: int) -> None:
        while True:
            while (key := self._take(share)) is None:
                self._not_empty.clear()
                await self._not_empty.wait()
            self._queued.discard(key)
            self._busy[key.namespace] += 1
            started = self._active[key] = self._moved_s = self._clock()
            try:
                await work(key)
            finally:
                self._active.pop(key, None)
                self._moved_s = self._clock()
                self._busy[key.namespace] -= 1
                if not self._busy[key.namespace]:
                    del self._busy[key.namespace]
                self._not_empty.set()
            if key in self._dirty:
                self._dirty.discard(key)
                self.add_after(key, _cooldown(self._clock() - started))


def _cooldown(took_s: float) -> float:
    return 0.0 if took_s < SHORT_S else min(took_s, COOLDOWN_LONGEST_S)
