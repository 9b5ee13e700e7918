"""The watch of the nodes' Leases in Kigi's own namespace.

It is separate from kopf's watches, which read every namespace: the operator's role covers its own Leases alone, and no
Lease of another namespace counts as a heartbeat. The label selector excludes the Lease of the leader's election.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass

from kigi.adapters.kubernetes.resources import HEARTBEAT
from kigi.domain.heartbeat import node_of_lease
from kigi.errors import KigiError
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeartbeatTimes:
    """Times of the watch, in seconds."""

    watch_s: float = 240.0
    """Duration of one watch; the listing after it is the resync."""
    silence_s: float = 70.0
    """A watch without an event or bookmark for this long is opened again."""
    backoff_s: tuple[float, float] = (0.5, 15.0)
    """First and longest delay after an error."""


TIMES = HeartbeatTimes()
LOOP = "watch of heartbeats"
"""Its name in ``Ports.liveness``."""


async def watch_heartbeats(ports: Ports, *, times: HeartbeatTimes = TIMES) -> None:
    """Lists and watches the Leases until cancelled, with backoff after errors."""
    delay_s = times.backoff_s[0]
    while True:
        ports.liveness.beat(LOOP)
        try:
            await _watch(ports, await list_heartbeats(ports), times)
            delay_s = times.backoff_s[0]
            await asyncio.sleep(delay_s)  # a watch that ends immediately must not become a list without a pause
        except KigiError as exc:
            logger.warning("heartbeats not read", extra={"error": str(exc), "retry_s": delay_s})
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, times.backoff_s[1])


async def list_heartbeats(ports: Ports) -> str:
    """Takes in all Leases, and forgets nodes without one. The resourceVersion from which a watch misses nothing."""
    namespace = ports.settings.namespace
    gone = set(ports.mirror.heartbeats)
    _, version = await ports.kube.list_version(HEARTBEAT, namespace)
    async for lease in ports.kube.list_all(HEARTBEAT, namespace):
        gone.discard(node_of_lease(lease) or "")
        ports.hear(lease)
    for node in gone:
        ports.mirror.heartbeats.forget(node)
    return version


async def _watch(ports: Ports, version: str, times: HeartbeatTimes) -> None:
    events = ports.kube.watch(
        HEARTBEAT,
        ports.settings.namespace,
        resource_version=version,
        duration_s=times.watch_s,
        silence_s=times.silence_s,
        bookmarks=True,
    )
    async with aclosing(events):
        async for event in events:
            ports.liveness.beat(LOOP)
            if event.type == "DELETED":
                ports.mirror.heartbeats.forget(node_of_lease(dict(event.object)) or "")
            elif event.type != "BOOKMARK":
                ports.hear(event.object, is_event=True)
