"""Background tasks of a process: they run together, and end together on a failure or a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping

logger = logging.getLogger(__name__)

Task = Callable[[], Coroutine[object, object, None]]
"""A coroutine function that runs until it is cancelled; one that returns has nothing more to do."""


async def supervise(tasks: Mapping[str, Task]) -> None:
    """Run all tasks, by name. Returns when all have returned.

    If one fails, its error is logged with its name, the others are cancelled, and an ExceptionGroup is raised.
    """
    async with asyncio.TaskGroup() as group:
        for name, task in tasks.items():
            group.create_task(task(), name=name).add_done_callback(_log_failure)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("background task failed", extra={"task": task.get_name()}, exc_info=error)


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
