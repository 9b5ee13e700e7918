"""Background tasks of a process: each is started again when it fails, and all end together on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping

from kigi_cache import metrics
from kigi_cache.backoff import Backoff
from kigi_cache.clock import Clock

logger = logging.getLogger(__name__)

STABLE_S = 60.0
"""A task that has run for this time since it failed counts as repaired."""

Task = Callable[[], Coroutine[object, object, None]]
"""A coroutine function that runs until it is cancelled; one that returns has nothing more to do."""


class Supervisor:
    """Runs tasks, each for itself: whatever ends one, the others go on, and it starts again after a growing wait."""

    def __init__(self, clock: Clock, on_failure: Callable[[], None] = lambda: None) -> None:
        """``on_failure`` is called when ``failing`` has changed."""
        self._clock = clock
        self._on_failure = on_failure
        self._failed: dict[str, tuple[float, str]] = {}
        """Monotonic time and text of the last failure of each task."""

    async def run(self, tasks: Mapping[str, Task]) -> None:
        """Run all tasks, by name, until all have returned or this call is cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, task in tasks.items():
                group.create_task(self._keep(name, task), name=name)

    def failing(self) -> dict[str, str]:
        """The last error of each task that failed a short time ago, by name."""
        now_s = self._clock.monotonic_s()
        return {name: text for name, (at_s, text) in self._failed.items() if now_s - at_s < STABLE_S}

    async def _keep(self, name: str, task: Task) -> None:
        backoff = Backoff()
        while True:
            started_s = self._clock.monotonic_s()
            try:
                await task()
                return
            except Exception as exc:
                ended_s = self._clock.monotonic_s()
                if ended_s - started_s >= STABLE_S:
                    backoff.reset()
                self._failed[name] = (ended_s, f"{type(exc).__name__}: {exc}")
                metrics.TASK_FAILURES.labels(name).inc()
                delay_s = backoff.next_s()
                extra = {"task": name, "retry_s": round(delay_s, 1)}
                logger.error("background task failed", extra=extra, exc_info=exc)
                self._on_failure()
            await self._clock.sleep(delay_s)


async def run_until_signalled(task: Task) -> None:
    """Run the task; SIGTERM and SIGINT cancel it, and the process ends without an error. Main thread only."""
    running = asyncio.ensure_future(task())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        logger.info("stopped")
