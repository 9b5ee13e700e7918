"""What reconcilers use: the mirror to read, the API to write, the queue to enqueue in, clocks and settings."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kigi.adapters.credentials import EnvironmentKeys, Keys, keys_of
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import Resource
from kigi.adapters.s3_probe import ConditionalWrites, S3Probe
from kigi.api.repositories import Repository
from kigi.errors import KigiError
from kigi.mirror.store import Change, Mirror
from kigi.mirror.trigger_rules import daemon_is_back
from kigi.mirror.triggers import enqueue_requests
from kigi.runtime import metrics
from kigi.runtime.clock import utc_now
from kigi.runtime.event_limit import EventLimit
from kigi.runtime.joins import Joins
from kigi.runtime.liveness import RECONCILE_S, Liveness
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings


def random_suffix() -> str:
    """16 random hex digits, for names that nothing refers to."""
    return uuid.uuid4().hex[:16]


class ClusterRestored(Exception):
    """The API server has an older state than this process has seen: etcd was restored from a backup.

    Versions are used once more, and deleted objects exist again, so that nothing in this process's memory can be
    trusted, nor what its watches have delivered: only a new process begins without any of it.
    """


def _own_keys() -> Callable[[Repository], Keys]:
    keys = EnvironmentKeys()
    return lambda repository: keys_of(repository, os.environ, keys)


@dataclass(frozen=True, slots=True)
class WriteProbe:
    """A write probe that succeeded."""

    settings: object
    """Server, bucket and credentials that it used."""
    at_s: float
    """The clock's time."""
    result: ConditionalWrites


@dataclass(slots=True)
class Ports:
    """One per process."""

    kube: KubeClient
    mirror: Mirror
    queue: WorkQueue
    settings: Settings
    now: Callable[[], datetime] = utc_now
    version: str | None = None
    """Version of Kigi that the daemons compare theirs with; None: they get none."""
    events: EventLimit = field(default_factory=EventLimit)
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""
    suffix: Callable[[], str] = random_suffix
    """Last part of an event's name."""
    hook_image: str = field(init=False)
    """Image of the disk hook's sidecar; empty: not known, for the reason in ``hook_image_problem``."""
    hook_image_problem: str = "the operator has not read its Deployment yet"
    restarted: dict[str, float] = field(default_factory=dict)
    """uid of each instance whose restart was requested lately, and the clock's time of the request."""

    doubt: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a watch began with an older object than the mirror has: everything is listed again soon."""
    probe: S3Probe = field(default_factory=S3Probe)
    own_keys: Callable[[Repository], Keys] = field(default_factory=_own_keys)
    """The credentials of this process's environment for a repository, as they are now; blocks, raises KigiError."""
    regions: dict[str, str] = field(default_factory=dict)
    """By name of the repository: the region of its bucket, which the server has accepted."""
    write_probes: dict[str, WriteProbe] = field(default_factory=dict)
    """By name of the repository: its last write probe."""
    writers: dict[str, Repository | KigiError] = field(default_factory=dict)
    """By name of the repository: its settings with the writer's credentials, or why there are none."""
    authorities: dict[str, str | None] = field(default_factory=dict)
    """By name of the repository: the authorities of its endpoint as PEM; None: those of the system."""
    joins: Joins = field(default_factory=Joins)
    liveness: Liveness = field(default_factory=Liveness)

    def __post_init__(self) -> None:
        self.hook_image = self.settings.hook_image

    def see(self, kind: str, body: Mapping[str, Any]) -> None:
        """Takes in an object from a watch, a listing or the answer to a write; enqueues what depends on it."""
        self._enqueue(self.mirror.put(kind, body))

    def see_gone(self, kind: str, namespace: str | None, name: str, uid: str, version: int | None = None) -> None:
        """Takes in that the object with that uid is gone, see ``Mirror.gone``; enqueues what depended on it."""
        self._enqueue(self.mirror.gone(kind, namespace, name, uid, version))

    def see_event(self, kind: str, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Takes in an event of a watch; ``event_type`` None: an object of the listing before it."""
        if event_type != "DELETED":
            self.see(kind, body)
            return
        meta = body["metadata"]
        # An object whose label was removed has left the watch, as a deleted one has.
        version = int(meta["resourceVersion"])
        self.see_gone(kind, meta.get("namespace"), meta["name"], meta["uid"], version)

    def hear(self, lease: Mapping[str, Any], *, is_event: bool = False) -> None:
        """Takes in a node's Lease; enqueues what waits for a daemon that was silent, and nothing else."""
        node = self.mirror.heartbeats.put(lease, self.now(), is_event=is_event)
        if node is not None and self.mirror.synced:
            for key, delay_s in daemon_is_back(self.mirror, node):
                self.queue.add_after(key, delay_s)

    def unhealthy(self) -> str:
        """What keeps this process from making progress, so that only a new one can; empty if nothing does."""
        return "; ".join([*self.liveness.stuck(), *self.queue.stuck(RECONCILE_S)])

    async def relist(self, resource: Resource, progress: Callable[[], None] = lambda: None) -> int:
        """Brings the mirror of one kind up to date with the API server; the number of differences.

        ``progress`` is called for each object.

        An object counts as gone only if the mirror had it before the listing began: others may be newer than it.

        Raises ClusterRestored: a listing is never older than what was seen before it began.
        """
        before, gone = self.mirror.known_uids(resource.kind), self.mirror.gone_uids()
        changed = 0
        async for body in self.kube.list_all(resource):
            progress()
            uid, version = body["metadata"]["uid"], int(body["metadata"]["resourceVersion"])
            _, known = before.pop(uid, (None, -1))
            if version < known or version <= gone.get(uid, -1):
                raise ClusterRestored(
                    f"{resource.kind} {body['metadata']['name']} has version {version} again, which was over before: "
                    "etcd was restored from a backup; the operator starts again with what is stored now"
                )
            change = self.mirror.put(resource.kind, body)
            changed += change is not None
            self._enqueue(change)
        for uid, ((namespace, name), version) in before.items():
            change = self.mirror.gone(resource.kind, namespace, name, uid, version)
            changed += change is not None
            self._enqueue(change)
        metrics.MIRROR_OBJECTS.labels(resource.kind).set(len(self.mirror.stores[resource.kind]))
        return changed

    def _enqueue(self, change: Change | None) -> None:
        if change is None or not self.mirror.synced:
            return
        for key, delay_s in enqueue_requests(self.mirror, change):
            self.queue.add_after(key, delay_s)
