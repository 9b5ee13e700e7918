"""What a reconciler works with: the mirror to read, the API to write, the queue to wake others, a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import Resource
from kigi.mirror.store import Change, Mirror
from kigi.mirror.triggers import enqueue_requests
from kigi.runtime import metrics
from kigi.runtime.event_limit import EventLimit
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Ports:
    """One per process."""

    kube: KubeClient
    mirror: Mirror
    queue: WorkQueue
    settings: Settings
    now: Callable[[], datetime] = utc_now
    events: EventLimit = field(default_factory=EventLimit)
    restarted: dict[str, float] = field(default_factory=dict)
    """uid of instances that were asked to end, and when (monotonic seconds)."""

    def see(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object as a watch, a listing or the answer to a write shows it."""
        self._wake(self.mirror.put(kind, body))

    def see_gone(self, kind: str, namespace: str | None, name: str, uid: str) -> None:
        """The object of that uid does not exist any more."""
        self._wake(self.mirror.gone(kind, namespace, name, uid))

    async def relist(self, resource: Resource) -> int:
        """Brings the mirror of one kind in line with the API server; how many objects were other than known.

        Only what was known before the listing began can be found to be gone: what comes in meanwhile is newer.
        """
        before = self.mirror.known_uids(resource.kind)
        changed = 0
        async for body in self.kube.list_all(resource):
            before.pop(body["metadata"]["uid"], None)
            change = self.mirror.put(resource.kind, body)
            changed += change is not None
            self._wake(change)
        for uid, (namespace, name) in before.items():
            change = self.mirror.gone(resource.kind, namespace, name, uid)
            changed += change is not None
            self._wake(change)
        metrics.MIRROR_OBJECTS.labels(resource.kind).set(len(self.mirror.stores[resource.kind]))
        return changed

    def _wake(self, change: Change | None) -> None:
        if change is None or not self.mirror.synced:
            return
        for key, delay_s in enqueue_requests(self.mirror, change):
            self.queue.add_after(key, delay_s)
