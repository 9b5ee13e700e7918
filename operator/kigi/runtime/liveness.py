"""Whether the process makes progress: each of its loops reports every attempt, and the queue every reconcile.

An attempt counts whether it succeeds or fails. An API server that is away for an hour makes no loop stuck, as a new
process would only wait for it again. A loop that waits for nothing any more needs a new process. (One that fails ends
the process by itself.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LOOP_S = 300.0
"""Longest time between two attempts of a loop. The longest regular one is 115 s: a watch without an event, which is
opened again after 70 s, and a request that takes its 30 s and 15 s of backoff."""
RECONCILE_S = 900.0
"""Longest reconcile, and longest time in which queued keys wait without any reconcile that begins or ends."""


@dataclass(frozen=True, slots=True)
class _Beat:
    at_s: float
    limit_s: float
    task: asyncio.Task[Any] | None


class Liveness:
    """The loops of one process. ``clock`` gives monotonic seconds; tests replace it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, _Beat] = {}

    def beat(self, loop: str, limit_s: float = LOOP_S, *, task: asyncio.Task[Any] | None = None) -> None:
        """The loop begins another attempt. It is stuck if this is not called again within ``limit_s``.

        The end of ``task`` is that of the loop: kopf ends the watch of a kind that is removed from the cluster.
        """
        self._beats[loop] = _Beat(self._clock(), limit_s, task)

    def end(self, loop: str) -> None:
        """The loop has ended as it should."""
        self._beats.pop(loop, None)

    def stuck(self) -> list[str]:
        """One text for each loop that is stuck; empty if all go on."""
        now, found = self._clock(), []
        for loop, beat in sorted(self._beats.items()):
            if beat.task is not None and beat.task.done():
                self.end(loop)
            elif now - beat.at_s > beat.limit_s:
                found.append(f"{loop}: no attempt for {now - beat.at_s:.0f} s")
        return found
