"""Warning events about the NodeCache: limited in rate, queued, and retried while the API server is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from kigi.errors import KigiError
from kigi_cache import metrics
from kigi_cache.clock import Clock

logger = logging.getLogger(__name__)

REPEAT_AFTER_S = 300.0
"""An event of one reason about one subject is emitted once in this time: etcd stores each event for an hour."""
MAX_OF_REASON = 10
"""Events of one reason in that time: without a repository, each of thousands of layers is refused for it."""
MAX_QUEUED = 200
RETRY_S = 30.0
MAX_ATTEMPTS = 20
"""Ten minutes without an API server. An event that the server refuses is given up after the same time."""

SendEvent = Callable[[str, str], Awaitable[None]]
"""Reason and message of a Warning event. Raises KigiError."""


class EventReporter:
    """Queue of Warning events; ``run`` sends them."""

    def __init__(self, send: SendEvent, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MAX_QUEUED)
        self._emitted: dict[tuple[str, str], float] = {}
        """Time of the last event, by reason and subject."""

    def warn(self, reason: str, subject: str, message: str) -> None:
        """Emit an event about ``subject`` (a digest or a volume).

        It is dropped if it was emitted within REPEAT_AFTER_S, or MAX_OF_REASON others of its reason were. It is also
        dropped, but counted by the metric, if MAX_QUEUED events wait already.
        """
        now_s = self._clock.monotonic_s()
        self._emitted = {key: at_s for key, at_s in self._emitted.items() if now_s - at_s < REPEAT_AFTER_S}
        if (reason, subject) in self._emitted or self._count(reason) >= MAX_OF_REASON:
            return
        self._emitted[reason, subject] = now_s
        metrics.WARNINGS.labels(reason).inc()
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait((reason, message))

    def _count(self, reason: str) -> int:
        return sum(emitted == reason for emitted, _ in self._emitted)

    async def run(self) -> None:
        """Send the queued events until cancelled, in order."""
        while True:
            reason, message = await self._queue.get()
            await self._deliver(reason, message)

    async def _deliver(self, reason: str, message: str) -> None:
        for _ in range(MAX_ATTEMPTS):
            try:
                await self._send(reason, message)
                return
            except KigiError as exc:
                logger.warning("event not written", extra={"event": reason, "cause": str(exc)})
                await self._clock.sleep(RETRY_S)
