"""The watches of disks and VMs, of which a class has thousands.

Each of their changes only brings the mirror up to date. kopf, which watches all other kinds, would keep a task, a queue
and copies of the object for each of them: two thirds of the processor time of a deployment's creation.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass

from kigi.adapters.kubernetes.resources import Resource
from kigi.adapters.kubernetes.watch import WatchEvent
from kigi.errors import Expired, KigiError, NotFound, Unreachable
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildTimes:
    """Times of a watch, in seconds."""

    watch_s: float = 240.0
    """Duration of one watch; the next one continues where it ended."""
    silence_s: float = 70.0
    """A watch without an event or bookmark for this long is opened again."""
    backoff_s: tuple[float, float] = (0.5, 15.0)
    """First and longest delay after an error."""
    pause_s: float = 0.1
    """Between two watches: one that ends immediately must not become a flood of requests."""


TIMES = ChildTimes()
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""Errors of an answer or an object that is not as the API server makes it."""


class ChildWatch:
    """Lists one kind, and follows its changes into the mirror."""

    def __init__(self, ports: Ports, resource: Resource, times: ChildTimes = TIMES) -> None:
        self._ports, self._resource, self._times = ports, resource, times
        self._version = ""
        """Up to which the mirror has every change; empty: list first."""
        self._delay_s = times.backoff_s[0]
        """Until the next attempt after an error."""

    async def run(self) -> None:
        """Until cancelled, with backoff after errors. Raises ClusterRestored."""
        while True:
            self._beat()
            try:
                await self._follow()
                self._delay_s = self._times.backoff_s[0]
                await asyncio.sleep(self._times.pause_s)
            except Expired:
                self._version = ""
                await asyncio.sleep(self._times.pause_s)
            except (KigiError, *DAMAGED) as exc:
                if not isinstance(exc, NotFound):  # KubeVirt is not installed (any more)
                    text = {"kind": self._resource.kind, "error": str(exc), "retry_s": self._delay_s}
                    logger.warning("watch broke off", extra=text, exc_info=not isinstance(exc, KigiError))
                await self._pause(exc)

    async def _pause(self, error: Exception) -> None:
        """Before the next attempt. After several without an event, or an answer that is no listing, it lists again."""
        longest_s = self._times.backoff_s[1]
        if isinstance(error, (NotFound, *DAMAGED)) or self._delay_s >= longest_s:
            self._version = ""
        await asyncio.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, longest_s)

    async def _follow(self) -> None:
        if not self._version:
            _, version = await self._ports.kube.list_version(self._resource)
            await self._ports.relist(self._resource, self._beat)
            self._version = version
        events = self._ports.kube.watch(
            self._resource,
            resource_version=self._version,
            duration_s=self._times.watch_s,
            silence_s=self._times.silence_s,
            bookmarks=True,
        )
        async with aclosing(events):
            async for event in events:
                self._beat()
                self._delay_s = self._times.backoff_s[0]
                self._take(event)
                before, self._version = self._version, event.resource_version
                if int(self._version) < int(before):  # a listing finds out whether etcd was restored
                    self._version = ""
                    raise Unreachable(f"version {event.resource_version} after {before}")

    def _beat(self) -> None:
        self._ports.liveness.beat(f"watch of {self._resource.kind}")

    def _take(self, event: WatchEvent) -> None:
        """One object that the mirror cannot parse must not end the watch of the others."""
        if event.type == "BOOKMARK":
            return
        try:
            self._ports.see_event(self._resource.kind, event.type, dict(event.object))
        except DAMAGED:
            logger.exception("object not read", extra={"kind": self._resource.kind, "version": event.resource_version})
