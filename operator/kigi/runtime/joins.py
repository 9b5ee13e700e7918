"""Joins of layers from their parts, in the background of the operator: one at a time in each repository, as each reads
a whole layer.

A copy whose join fails waits before the next attempt, twice as long after each failure. So neither a node that never
stores what it reports nor a server that answers nothing keeps the operator from the layers of others.

Nothing is lost with the process: another operator finds the same layers to join, and joins only what is missing. Two
operators that join one layer do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kigi.adapters.s3_join import join_parts
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest
from kigi.errors import KigiError, LayerCorrupt

logger = logging.getLogger(__name__)

MAX_FAILED = 1000
"""Failures that are remembered; an older one is found again by another attempt."""
RETRY_S = (30.0, 3600.0)
"""First and longest time from a failure to the next attempt for the same copy."""

_Value = TypeVar("_Value")
JoinFunction = Callable[[Repository, str | None, Digest, int, Sequence[Digest]], Awaitable[None]]


class Joins:
    """The joins in progress, and why others failed, by id of the copy."""

    def __init__(self, join: JoinFunction = join_parts, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: monotonic seconds."""
        self.failed: dict[str, str] = {}
        """The parts are not the layer: no other attempt is made."""
        self.troubles: dict[str, str] = {}
        """The last attempt failed for another reason."""
        self._join = join
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[tuple[str, str], asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))
        """By endpoint and bucket."""
        self._waits: dict[str, tuple[float, float]] = {}
        """Of copies with a trouble: the time to wait, and the clock's time of the next attempt."""

    def start(
        self,
        copy: str,
        repository: Repository,
        ca_bundle: str | None,
        digest: Digest,
        size_bytes: int,
        parts: Sequence[Digest],
        done: Callable[[], None],
    ) -> None:
        """Begins a join, unless it is in progress, or another attempt is useless or too early.

        ``done`` is called when no other attempt is needed.
        """
        _, not_before_s = self._waits.get(copy, (0.0, self._clock()))
        if copy in self._tasks or copy in self.failed or self._clock() < not_before_s:
            return

        async def run() -> None:
            async with self._turns[repository.endpoint, repository.bucket]:
                await self._join(repository, ca_bundle, digest, size_bytes, parts)

        task = self._tasks[copy] = asyncio.create_task(run(), name=f"join {copy}")
        task.add_done_callback(lambda task: self._end(copy, task, done))

    async def cancel(self) -> None:
        """Ends the joins in progress, and waits for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, copy: str, task: asyncio.Task[None], done: Callable[[], None]) -> None:
        """Keeps the outcome. An error that is no KigiError is kept too: the capture shows it, and it is tried again."""
        del self._tasks[copy]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, LayerCorrupt):
            first_s, longest_s = RETRY_S
            wait_s = min(2 * self._waits[copy][0], longest_s) if copy in self._waits else first_s
            _remember(self._waits, copy, (wait_s, self._clock() + wait_s))
            _remember(self.troubles, copy, _text(error))
            logger.warning("layer not joined", extra={"capture": copy, "cause": _text(error)})
            return
        self.troubles.pop(copy, None)
        self._waits.pop(copy, None)
        if error is not None:
            _remember(self.failed, copy, _text(error))
            logger.warning("layer not joined", extra={"capture": copy, "cause": _text(error)})
        else:
            logger.info("layer joined", extra={"capture": copy})
        done()


def _remember(known: dict[str, _Value], copy: str, value: _Value) -> None:
    known.pop(copy, None)
    while len(known) >= MAX_FAILED:
        known.pop(next(iter(known)))
    known[copy] = value


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, KigiError) else f"{type(error).__name__}: {error}"
