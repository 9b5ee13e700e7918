"""Reconciles this node with its NodeCache: layers, copies and discards of the spec in, status and events out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from prometheus_client import Counter

from kigi.api.base import Metadata
from kigi.api.node_cache import CaptureOrder, CaptureReport, NodeCache, NodeCacheStatus, WantedLayer
from kigi.api.node_facts import NodeFacts
from kigi.domain.node_protocol import PROTOCOLS, CacheUnreadable
from kigi.errors import KigiError, LayerCorrupt, OverlayRejected, VolumeBusy, VolumeInUse
from kigi_cache import metrics
from kigi_cache.background import Supervisor
from kigi_cache.backoff import Backoff
from kigi_cache.clock import Clock
from kigi_cache.disks.headroom import SpaceReport
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.events import EventReporter
from kigi_cache.node.kube import Seen
from kigi_cache.node.status_report import OVERLAYS_GROW, build_status, unreadable_status
from kigi_cache.node.status_schedule import StatusSchedule

logger = logging.getLogger(__name__)

LEAST_INTERVAL_S = 0.1
"""Least time between two reconciles."""
RETRY_S = 1.0
"""After a directory that could not be read."""
DISCARD_RETRY_S = 2.0
CAPTURE_CHECK_S = 0.5
"""The publisher of captured layers writes files and notifies no process; so its results are polled."""
API_SILENCE_S = 60.0
RECOVERY = "recover"
"""Name of the task that reads the content of the disk."""


class NodeApi(Protocol):
    """The calls of the API server that the keeper depends on. Each raises KigiError."""

    async def get(self) -> Seen:
        """The NodeCache of this node."""

    def watch(self, resource_version: str) -> AsyncIterator[NodeCache | None]:
        """Later states of the NodeCache; None: deleted."""

    async def write_status(self, status: NodeCacheStatus) -> None:
        """Replace the status."""

    async def renew_lease(self, owner: Metadata, certificates: Sequence[str] = ()) -> None:
        """Show that the daemon works and its status is up to date. ``owner``: metadata of the NodeCache.

        ``certificates``: fingerprints of what the daemon shows to its peers.
        """

    async def warn(self, uid: str, reason: str, message: str) -> None:
        """Create a Warning event about the NodeCache."""


class Supply(Protocol):
    """The part of the filler that the keeper depends on."""

    def want(self, layers: Sequence[WantedLayer]) -> None:
        """Replace the list of layers that the node should hold."""

    def snapshot(self) -> FillState:
        """Layers that are held, being fetched, or refused."""


class Overlays(Protocol):
    """The part of the volumes that the keeper depends on."""

    to_discard: frozenset[str]

    def overlays(self) -> list[Volume]:
        """All overlays on the disk. Blocks."""

    async def discard(self, handle: str) -> None:
        """Delete an overlay. Raises VolumeInUse and VolumeBusy."""


class Copies(Protocol):
    """The part of the captures that the keeper depends on."""

    async def reconcile(self, orders: Sequence[CaptureOrder]) -> bool:
        """Make and delete copies as ordered; True if it must be called again soon."""

    def reports(self) -> list[CaptureReport]:
        """One report for each order."""

    def is_waiting(self) -> bool:
        """Whether a report may change without a call of ``reconcile``."""


class Certificates(Protocol):
    """What the daemon shows to its peers, and the Lease publishes."""

    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints to publish now."""

    def published(self, fingerprints: Sequence[str]) -> None:
        """The Lease has them."""


class NodeCacheKeeper:
    """Reconciles until cancelled. One for each process."""

    def __init__(
        self,
        api: NodeApi,
        volumes: Overlays,
        supply: Supply,
        captures: Copies,
        *,
        clock: Clock,
        peer_address: str | None = None,
        certificates: Certificates | None = None,
        version: str = "",
        supervisor: Supervisor | None = None,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """``peer_address``: where other nodes fetch layers from this one, for the status; None: nowhere.

        ``version``: of Kigi, for the status. ``is_ready``: whether the content of the disk is known; until then the
        keeper reports and does nothing.
        """
        self._supervisor = supervisor if supervisor is not None else Supervisor(clock)
        self._is_ready = is_ready
        self._api = api
        self._volumes = volumes
        self._supply = supply
        self._captures = captures
        self._clock = clock
        self._peer_address, self._version = peer_address, version
        self._certificates = certificates
        self._events = EventReporter(self._send_event, clock)
        self._cache: NodeCache | None = None
        self._acted = ("", -1)
        """Uid and generation of the spec that the filler has, and whose discards were tried."""
        self._writes = 0
        """Number of attempts to write the status."""
        self._changed = asyncio.Event()
        self._schedule = StatusSchedule()
        self._reachable = asyncio.Event()
        """Set when the API server answers, cleared when a write fails."""
        self._write_backoff = Backoff()
        self._answered_s = clock.monotonic_s()
        """When the API server last answered."""
        self._space = SpaceReport()
        self.facts: NodeFacts | None = None
        """What was found on the node, for the status."""
        self.status: NodeCacheStatus | None = None
        """Latest status, whether written or not."""

    async def run(self) -> None:
        """Reconcile until cancelled."""
        tasks = {"follow NodeCache": self._follow, "keep NodeCache": self._keep, "events": self._events.run}
        await self._supervisor.run(tasks)

    def changed(self) -> None:
        """Call when anything that the status shows has changed."""
        self._changed.set()

    def unready(self) -> str:
        """Why this node should not get new disks; empty if it should. A silence below API_SILENCE_S is tolerated."""
        silence_s = self._clock.monotonic_s() - self._answered_s
        return f"no answer from the API server for {silence_s:.0f} s" if silence_s > API_SILENCE_S else ""

    def warn(self, reason: str, subject: str, message: str) -> None:
        """Emit a Warning event about ``subject`` (a digest or a volume), unless it was emitted a short time ago."""
        self._events.warn(reason, subject, message)

    def space_changed(self, space: SpaceReport) -> None:
        """What to report of the overlays' space from now on. Machines that fill the disk are named in an event."""
        text, before = space.pressure, self._space.pressure
        self._space = space
        if text and text != before:
            self._events.warn(OVERLAYS_GROW, text[:80], text)
        self._changed.set()

    def volume_failed(self, handle: str, error: KigiError) -> None:
        """Emit an event for an error that a person must see: damaged or manipulated files."""
        if isinstance(error, (OverlayRejected, LayerCorrupt)):
            self._events.warn(error.reason, handle, f"{handle}: {error}")

    # Reading.

    async def _follow(self) -> None:
        """List and watch the NodeCache, with backoff after errors."""
        backoff = Backoff()
        while True:
            try:
                writes = self._writes
                seen = await self._api.get()
                if writes == self._writes and seen.cache is not None:
                    self._compare(seen.cache)
                self._observe(seen.cache)
                async for cache in self._api.watch(seen.resource_version):
                    self._observe(cache)
                    backoff.reset()
                # A watch that ends immediately must not become a list without a pause.
                await self._clock.sleep(backoff.FIRST_S)
            except KigiError as exc:
                delay_s = backoff.next_s()
                logger.warning("NodeCache not read", extra={"cause": str(exc), "retry_s": round(delay_s, 1)})
                await self._clock.sleep(delay_s)

    def _compare(self, stored: NodeCache) -> None:
        """Begins again with an object that has another status than the written one.

        After a restore of etcd from a backup, generations are used once more: a spec may be new although its generation
        was acted on, and the operator waits for a status that is lost.
        """
        if self._schedule.is_lost(stored.metadata.uid, stored.status):
            logger.warning(
                "the NodeCache has lost its status; it is written again", extra={"node": stored.metadata.name}
            )
            self._acted, self._schedule = ("", -1), self._schedule.begun_again()
            self._changed.set()

    def _observe(self, cache: NodeCache | None) -> None:
        self._answered_s = self._clock.monotonic_s()
        self._reachable.set()
        before, self._cache = self._cache, cache
        if cache is None or before is None or _identity(before) != _identity(cache):
            self._changed.set()

    # Reconciling.

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            cache = self._cache
            if cache is None:
                await self._changed.wait()
                continue
            try:
                if not self._is_ready():
                    raise CacheUnreadable(self._supervisor.failing().get(RECOVERY, "its content is being read"))
                wait_s = await self._reconcile(cache)
            except (OSError, CacheUnreadable) as exc:
                await self._report_unreadable(cache, exc)
                await self._clock.sleep(RETRY_S)
                continue
            await self._clock.wait(self._changed, wait_s)

    async def _report_unreadable(self, cache: NodeCache, error: OSError | CacheUnreadable) -> None:
        """Report what was known last, and the cause. There is no heartbeat: the node gets no new disks."""
        logger.error("the cache directory cannot be used", extra={"cause": str(error)})
        self._schedule = self._schedule.of_object(cache.metadata.uid)
        known = self.status or self._schedule.written or cache.status
        now = datetime.fromtimestamp(self._clock.wall_s(), UTC)
        self.status = unreadable_status(known, str(error), self._supervisor.failing(), now)
        if self._schedule.is_due(self.status, self._clock.monotonic_s()):
            await self._write(self.status)

    async def _reconcile(self, cache: NodeCache) -> float:
        """Act on the spec and report. Seconds until the next reconcile, if no change is announced earlier."""
        self._schedule = self._schedule.of_object(cache.metadata.uid)
        must_retry = await self._act(cache)
        status = self.status = await self._build_status(cache)
        is_reported = not self._schedule.is_due(status, self._clock.monotonic_s()) or await self._write(status)
        # A heartbeat means that the status is up to date, so there is none before it is.
        if is_reported and self._schedule.is_beat_due(self._clock.monotonic_s()):
            await self._beat(cache)
        await self._clock.sleep(LEAST_INTERVAL_S)
        wait_s = self._schedule.next_check_s(status, self._clock.monotonic_s())
        if must_retry:
            wait_s = min(wait_s, DISCARD_RETRY_S)
        if self._captures.is_waiting():
            wait_s = min(wait_s, CAPTURE_CHECK_S)
        return wait_s

    async def _act(self, cache: NodeCache) -> bool:
        """Pass on a new spec, and try every discard that is left. True if a discard or a copy must be retried.

        A spec of a foreign protocol changes nothing: what was ordered before stays ordered.
        """
        if cache.spec.protocol not in PROTOCOLS:
            return False
        if self._acted != _identity(cache):
            self._volumes.to_discard = frozenset(cache.spec.discard_volumes)
            self._supply.want(cache.spec.layers)
        must_retry = await self._captures.reconcile(cache.spec.captures)
        if cache.spec.discard_volumes:
            present = {volume.handle for volume in await asyncio.to_thread(self._volumes.overlays)}
            for handle in sorted(present.intersection(cache.spec.discard_volumes)):
                must_retry |= not await self._discard(handle)
        self._acted = _identity(cache)
        return must_retry

    async def _discard(self, handle: str) -> bool:
        try:
            await self._volumes.discard(handle)
        except (VolumeInUse, VolumeBusy) as exc:
            logger.debug("overlay not deleted yet", extra={"volume": handle, "cause": str(exc)})
            return False
        except OSError as exc:
            logger.warning("overlay not deleted", extra={"volume": handle, "cause": str(exc)})
            return False
        metrics.OVERLAYS_DISCARDED.inc()
        logger.info("overlay deleted", extra={"volume": handle})
        return True

    async def _build_status(self, cache: NodeCache) -> NodeCacheStatus:
        volumes = await asyncio.to_thread(self._volumes.overlays)
        return build_status(
            cache,
            self._acted[1],
            self._supply.snapshot(),
            volumes,
            self._schedule.written or cache.status,
            captures=self._captures.reports(),
            peer_address=self._peer_address,
            version=self._version,
            failing=self._supervisor.failing(),
            space=self._space,
            facts=self.facts,
            now=datetime.fromtimestamp(self._clock.wall_s(), UTC),
        )

    async def _write(self, status: NodeCacheStatus) -> bool:
        started_s = self._clock.monotonic_s()
        self._writes += 1
        is_written = await self._attempt(self._api.write_status(status), "status not written", metrics.STATUS_WRITES)
        if is_written:
            self._schedule = self._schedule.after_write(status, started_s, self._answered_s)
        return is_written

    async def _beat(self, cache: NodeCache) -> None:
        started_s = self._clock.monotonic_s()
        shown = self._certificates.fingerprints() if self._certificates is not None else ()
        if await self._attempt(self._api.renew_lease(cache.metadata, shown), "Lease not renewed", metrics.HEARTBEATS):
            self._schedule = self._schedule.after_beat(started_s)
            if self._certificates is not None:
                self._certificates.published(shown)

    async def _attempt(self, request: Awaitable[None], failure: str, counter: Counter) -> bool:
        """Whether the API server has carried out the request. After an error, waits for the next attempt."""
        try:
            await request
        except KigiError as exc:
            counter.labels("error").inc()
            logger.warning(failure, extra={"cause": str(exc)})
            self._reachable.clear()
            await self._clock.wait(self._reachable, self._write_backoff.next_s())
            return False
        counter.labels("ok").inc()
        self._write_backoff.reset()
        self._answered_s = self._clock.monotonic_s()
        return True

    async def _send_event(self, reason: str, message: str) -> None:
        await self._api.warn(self._cache.metadata.uid if self._cache else "", reason, message)


def _identity(cache: NodeCache) -> tuple[str, int]:
    return cache.metadata.uid, cache.metadata.generation
