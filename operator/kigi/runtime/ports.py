"""What reconcilers use: the mirror to read, the API to write, the queue to enqueue in, clocks and settings."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import Resource
from kigi.mirror.store import Change, Mirror
from kigi.mirror.triggers import enqueue_requests
from kigi.runtime import metrics
from kigi.runtime.clock import utc_now
from kigi.runtime.event_limit import EventLimit
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings


def random_suffix() -> str:
    """16 random hex digits, for names that nothing refers to."""
    return uuid.uuid4().hex[:16]


@dataclass(slots=True)
class Ports:
    """One per process."""

    kube: KubeClient
    mirror: Mirror
    queue: WorkQueue
    settings: Settings
    now: Callable[[], datetime] = utc_now
    events: EventLimit = field(default_factory=EventLimit)
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""
    suffix: Callable[[], str] = random_suffix
    """Last part of an event's name."""
    restarted: dict[str, float] = field(default_factory=dict)
    """uid of each instance whose restart was requested lately, and the clock's time of the request."""

    def see(self, kind: str, body: Mapping[str, Any]) -> None:
        """Takes in an object from a watch, a listing or the answer to a write; enqueues what depends on it."""
        self._enqueue(self.mirror.put(kind, body))

    def see_gone(self, kind: str, namespace: str | None, name: str, uid: str) -> None:
        """Takes in that the object with that uid no longer exists; enqueues what depended on it."""
        self._enqueue(self.mirror.gone(kind, namespace, name, uid))

    async def relist(self, resource: Resource) -> int:
        """Brings the mirror of one kind up to date with the API server; the number of differences.

        An object counts as gone only if the mirror had it before the listing began: others may be newer than it.
        """
        before = self.mirror.known_uids(resource.kind)
        changed = 0
        async for body in self.kube.list_all(resource):
            before.pop(body["metadata"]["uid"], None)
            change = self.mirror.put(resource.kind, body)
            changed += change is not None
            self._enqueue(change)
        for uid, (namespace, name) in before.items():
            change = self.mirror.gone(resource.kind, namespace, name, uid)
            changed += change is not None
            self._enqueue(change)
        metrics.MIRROR_OBJECTS.labels(resource.kind).set(len(self.mirror.stores[resource.kind]))
        return changed

    def _enqueue(self, change: Change | None) -> None:
        if change is None or not self.mirror.synced:
            return
        for key, delay_s in enqueue_requests(self.mirror, change):
            self.queue.add_after(key, delay_s)
