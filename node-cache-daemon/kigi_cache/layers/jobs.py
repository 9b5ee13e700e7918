"""Layers that are requested and not held yet: what to fetch next, and what each failure means; in memory only.

Two parties request layers. The operator lists the layers that the node should hold (``want``). A CSI call needs the
chain of one volume now and waits for it (``Job.waiters``).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from kigi.api.node_cache import Purpose, WantedLayer
from kigi.domain.layers import Digest, Layer, parse_digest
from kigi.errors import KigiError
from kigi_cache.layers.eviction import Need


class Urgency(IntEnum):
    """Order in which layers are fetched, the highest first."""

    PREFETCH = 0
    MEMORY = 1
    DISK = 2
    POD = 3
    """A pod waits for it now."""


URGENCIES: Mapping[Purpose, Urgency] = {
    "Prefetch": Urgency.PREFETCH,
    "Memory": Urgency.MEMORY,
    "Disk": Urgency.DISK,
}
"""By purpose in the NodeCache; the operator has the same order (``PURPOSES``)."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many layers are fetched at the same time."""

    transfers: int
    prefetches: int
    """Of these, how many may be prefetches; the others stay free for disks that are requested meanwhile."""


@dataclass(slots=True)
class Job:
    """The fetch of one layer, from its request until it is held or no longer requested."""

    layer: Layer
    urgency: Urgency
    state: Literal["Queued", "Fetching", "Refused"] = "Queued"
    is_running: bool = False
    """A transfer is in progress, or still ending after ``stop`` was set."""
    fetched_bytes: int = 0
    error: KigiError | None = None
    reported_reason: str | None = None
    """Reason of the last reported error; the same reason is not reported again."""
    failures: int = 0
    not_before_s: float = 0.0
    """Monotonic time of the next attempt."""
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    """Set: the transfer ends after its current piece."""

    @property
    def need(self) -> Need:
        """Need of the layer as this job requests it."""
        return Need.WANTED if self.waiters else need_of(self.urgency)

    def requeue(self, layer: Layer) -> None:
        """Start again with ``layer`` as it is declared now, without the failures of the earlier declaration."""
        self.layer, self.state, self.error = layer, "Queued", None
        self.failures, self.not_before_s, self.fetched_bytes = 0, 0.0, 0

    def resolve(self, error: KigiError | None) -> None:
        """Wake all waiters: with ``error``, or because the layer is held."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error) if error is not None else waiter.set_result(None)


class Jobs:
    """All jobs of a node by digest, and the layers that the operator wants. Belongs to one event loop."""

    def __init__(self) -> None:
        self._jobs: dict[Digest, Job] = {}
        self._wanted: dict[Digest, WantedLayer] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def get(self, digest: Digest) -> Job | None:
        """The job of a layer; None if it is held or not requested."""
        return self._jobs.get(digest)

    @property
    def wanted(self) -> Mapping[Digest, WantedLayer]:
        """The layers that the operator wants on this node."""
        return self._wanted

    def declared(self, digest: Digest) -> Layer | None:
        """A wanted layer as the operator declares it now."""
        wanted = self._wanted.get(digest)
        return layer_of(wanted) if wanted is not None else None

    def want(self, layers: Iterable[WantedLayer], is_held: Callable[[Digest], bool]) -> list[Digest]:
        """Replace the list of wanted layers and request the missing ones.

        Returns the layers that nothing requests any more and whose partial files can go. A transfer in progress of such
        a layer is stopped; ``stopped`` decides about its file when it has ended.
        """
        self._wanted = {parse_digest(wanted.digest): wanted for wanted in layers}
        for digest, wanted in self._wanted.items():
            if not is_held(digest):
                self.request(layer_of(wanted), URGENCIES[wanted.purpose])
        dropped = []
        for digest, job in list(self._jobs.items()):
            if digest in self._wanted or job.waiters:
                continue
            job.stop.set()
            if not job.is_running:
                del self._jobs[digest]
                dropped.append(digest)
        return dropped

    def request_missing(self, is_held: Callable[[Digest], bool]) -> None:
        """Request every wanted layer that is neither requested nor held: its file was damaged, or evicted."""
        for digest, wanted in self._wanted.items():
            if digest not in self._jobs and not is_held(digest):
                self.request(layer_of(wanted), URGENCIES[wanted.purpose])

    def request(self, layer: Layer, urgency: Urgency) -> Job:
        """The job of ``layer``, created if there is none, with at least this urgency and the newest declaration."""
        job = self._jobs.get(layer.digest)
        if job is None:
            job = self._jobs[layer.digest] = Job(layer, urgency)
        job.urgency = max(job.urgency, urgency)
        if job.layer != layer and not job.is_running:
            job.requeue(layer)
        return job

    def startable(
        self, now_s: float, limits: Concurrency, is_doubtful: Callable[[Digest], bool] = lambda digest: False
    ) -> list[Job]:
        """Jobs to start now, the most urgent first, within ``limits``.

        A doubtful layer, whose file is verified by another task, is left out unless a pod waits for it.
        """
        running = [job for job in self._jobs.values() if job.is_running]
        transfers = limits.transfers - len(running)
        prefetches = limits.prefetches - sum(job.need == Need.PREFETCH for job in running)
        due = [
            job
            for job in self._jobs.values()
            if not job.is_running
            and job.not_before_s <= now_s
            and (job.urgency == Urgency.POD or not is_doubtful(job.layer.digest))
        ]
        started: list[Job] = []
        for job in sorted(due, key=lambda job: -job.urgency):
            if len(started) >= transfers:
                break
            if job.need == Need.PREFETCH:
                if prefetches <= 0:
                    continue
                prefetches -= 1
            started.append(job)
        return started

    def next_start_s(self, limits: Concurrency) -> float | None:
        """Monotonic time at which a waiting job may start; None if that depends on the end of a running one."""
        running = [job for job in self._jobs.values() if job.is_running]
        if len(running) >= limits.transfers:
            return None
        no_prefetch = sum(job.need == Need.PREFETCH for job in running) >= limits.prefetches
        return min(
            (
                job.not_before_s
                for job in self._jobs.values()
                if not job.is_running and not (no_prefetch and job.need == Need.PREFETCH)
            ),
            default=None,
        )

    def complete(self, job: Job) -> None:
        """The layer is held."""
        self._jobs.pop(job.layer.digest, None)
        job.resolve(None)

    def fail(self, job: Job, error: KigiError, retry_at_s: float) -> bool:
        """The attempt failed. Waiters get the error; a wanted layer is fetched again at ``retry_at_s``.

        If the operator has changed the declaration since the attempt began, the next attempt uses the new one and does
        not wait. Returns whether ``error`` is news: its reason differs from the last reported one.
        """
        digest = job.layer.digest
        job.resolve(error)
        is_news = job.reported_reason != error.reason
        job.reported_reason = error.reason
        job.state, job.error, job.fetched_bytes = "Refused", error, 0
        job.failures += 1
        job.not_before_s = retry_at_s
        declared = self.declared(digest)
        if declared is None:
            self._jobs.pop(digest, None)
        elif declared != job.layer:
            job.requeue(declared)
        return is_news

    def stopped(self, job: Job) -> bool:
        """A stopped transfer has ended. True if its partial file can go; False if the layer was requested again."""
        digest = job.layer.digest
        if not job.waiters and digest not in self._wanted:
            self._jobs.pop(digest, None)
            return True
        job.layer = self.declared(digest) or job.layer
        job.stop, job.state = threading.Event(), "Queued"
        return False

    def needs(self) -> dict[Digest, Need]:
        """Need of every layer that is wanted or waited for; a layer that is not listed is IDLE."""
        needs = {
            digest: Need.RUNNING if wanted.retention else need_of(URGENCIES[wanted.purpose])
            for digest, wanted in self._wanted.items()
        }
        for digest, job in self._jobs.items():
            needs[digest] = max(needs.get(digest, Need.IDLE), job.need)
        return needs

    def unrequested(self, parts: Collection[Digest]) -> list[Digest]:
        """Of layers with a partial file, those without a job: left over from an earlier run of the daemon."""
        return [digest for digest in parts if digest not in self._jobs]


def need_of(urgency: Urgency) -> Need:
    """Need of a wanted layer: nothing that VMs wait for is evicted for a prefetch."""
    return Need.PREFETCH if urgency == Urgency.PREFETCH else Need.WANTED


def layer_of(wanted: WantedLayer) -> Layer:
    """The domain's form of a layer that the NodeCache declares."""
    parent = parse_digest(wanted.parent_digest) if wanted.parent_digest is not None else None
    return Layer(
        parse_digest(wanted.digest), wanted.size_bytes, wanted.virtual_size_bytes, parent, wanted.repository_name
    )
