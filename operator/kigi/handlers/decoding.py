"""Makes kopf decode objects of any depth and size. It has no setting for its decoder, whose errors end its watches.

What its watches decode, and each request that they attempt, counts as their progress.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from kopf._cogs.clients import api

from kigi.adapters import bounded_json
from kigi.runtime.liveness import Liveness

WATCHER = "watcher for "
"""Begins the name of the task of one of kopf's watches. Source: kopf _core/reactor/orchestration.py."""


@dataclass(frozen=True, slots=True)
class Backoffs:
    """Seconds between the attempts of one of kopf's requests; the last one repeats. Each attempt is progress.

    kopf takes the next value before each attempt, also before the first.
    """

    delays_s: Sequence[float]
    liveness: Liveness

    def __iter__(self) -> Iterator[float]:
        for delay_s in itertools.chain(self.delays_s, itertools.repeat(self.delays_s[-1])):
            beat(self.liveness)
            yield delay_s


def beat(liveness: Liveness) -> None:
    """The current task goes on, if it is one of kopf's watches."""
    task = asyncio.current_task()
    if task is not None and task.get_name().startswith(WATCHER):
        liveness.beat(task.get_name(), task=task)


def install(liveness: Liveness) -> None:
    """Replaces the decoder of kopf's watches (``json`` in its client) and of its listings (aiohttp's default)."""

    def loads(text: str) -> Any:
        beat(liveness)
        return bounded_json.loads(text)

    api.json = SimpleNamespace(loads=loads)  # type: ignore[assignment, attr-defined]
    defaults = aiohttp.ClientResponse.json.__kwdefaults__
    assert defaults is not None
    defaults["loads"] = bounded_json.loads
