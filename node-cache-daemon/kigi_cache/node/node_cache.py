"""Keeps the node and its NodeCache in step: wanted layers and orders to discard in, status and events out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from kigi.api.node_cache import NodeCache, NodeCacheStatus, WantedLayer
from kigi.errors import KigiError, LayerCorrupt, OverlayRejected, VolumeBusy, VolumeInUse
from kigi_cache import metrics
from kigi_cache.captures.copies import Captures
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.report import FillState
from kigi_cache.node.kube import KubeApi
from kigi_cache.node.status_report import build_status, is_worth_telling_now, without_heartbeat

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
"""Between writes that only tell of more bytes."""
SHORTEST_INTERVAL_S = 0.1
HEARTBEAT_S = 30.0
DISCARD_RETRY_S = 2.0
CAPTURE_LOOK_S = 0.5
"""The publisher of captured layers writes files, and tells nobody."""
BACKOFF_S = (0.5, 30.0)
SAME_EVENT_S = 300.0
"""One event of a reason about a subject in this time: a person needs one, etcd keeps each for an hour."""
EVENTS_OF_REASON = 10
"""Events of one reason in SAME_EVENT_S: when the repository is away, each of thousands of layers is refused for it."""
WAITING_EVENTS = 200
EVENT_ATTEMPTS = 20
"""Ten minutes of a silent API server; a refusal that is meant ends there too."""
API_SILENCE_S = 60.0


class Supply(Protocol):
    """What the keeper needs of the filler."""

    def want(self, layers: Sequence[WantedLayer]) -> None:
        """The whole list of what the node shall hold."""

    def snapshot(self) -> FillState:
        """What is held, on its way and refused."""


class NodeCacheKeeper:
    """One per process. ``changed()`` tells it of anything that the status shows."""

    def __init__(
        self,
        api: KubeApi,
        volumes: Volumes,
        supply: Supply,
        captures: Captures,
        *,
        peer_address: str | None = None,
    ) -> None:
        self._api = api
        self._volumes = volumes
        self._supply = supply
        self._captures = captures
        self._peer_address = peer_address
        self._cache: NodeCache | None = None
        self._acted = ("", -1)
        """Uid and generation whose wishes the filler has and whose discards were tried."""
        self._changed = asyncio.Event()
        self._reachable = asyncio.Event()
        """The API server answered since a write failed."""
        self._events: asyncio.Queue[tuple[str, str]] = asyncio.Queue(WAITING_EVENTS)
        self._told: dict[tuple[str, str], float] = {}
        self._heard = time.monotonic()
        self.status: NodeCacheStatus | None = None
        """The latest, written or not."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep())
            group.create_task(self._tell())

    def changed(self) -> None:
        """Something that the status shows is another."""
        self._changed.set()

    def unready(self) -> str:
        """Empty, or why this node should not be given new disks. A minute of silence of the API server is nothing."""
        silence = time.monotonic() - self._heard
        return f"the API server has been silent for {silence:.0f} s" if silence > API_SILENCE_S else ""

    def warn(self, reason: str, subject: str, message: str) -> None:
        """A Warning event about ``subject`` (a digest, a volume), unless it was said a short time ago."""
        now = time.monotonic()
        self._told = {key: at for key, at in self._told.items() if now - at < SAME_EVENT_S}
        if (reason, subject) in self._told or sum(r == reason for r, _ in self._told) >= EVENTS_OF_REASON:
            return
        self._told[reason, subject] = now
        metrics.WARNINGS.labels(reason).inc()
        with contextlib.suppress(asyncio.QueueFull):
            self._events.put_nowait((reason, message))

    def volume_failed(self, handle: str, error: KigiError) -> None:
        """A disk could not be mounted: what a person must know becomes an event."""
        if isinstance(error, (OverlayRejected, LayerCorrupt)):
            self.warn(error.reason, handle, f"{handle}: {error}")

    # reading

    async def _follow(self) -> None:
        """List, then watch, for ever."""
        delay = BACKOFF_S[0]
        while True:
            try:
                seen = await self._api.get()
                self._saw(seen.cache)
                async for cache in self._api.watch(seen.resource_version):
                    self._saw(cache)
                    delay = BACKOFF_S[0]
                # Also after a good end: one that comes at once must not become a list without a pause.
                await asyncio.sleep(BACKOFF_S[0])
            except KigiError as exc:
                logger.warning("NodeCache not read", extra={"cause": str(exc), "retry_s": round(delay, 1)})
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(delay * 2, BACKOFF_S[1])

    def _saw(self, cache: NodeCache | None) -> None:
        self._heard = time.monotonic()
        self._reachable.set()
        before, self._cache = self._cache, cache
        if cache is None or before is None or _identity(before) != _identity(cache):
            self._changed.set()

    # acting and writing

    async def _keep(self) -> None:
        written: NodeCacheStatus | None = None
        written_of, written_at, pause = "", 0.0, SHORTEST_INTERVAL_S
        retry = BACKOFF_S[0]
        while True:
            self._changed.clear()
            cache = self._cache
            if cache is None:
                await self._changed.wait()
                continue
            if written_of != cache.metadata.uid:
                written, written_of, written_at = None, cache.metadata.uid, 0.0
            try:
                waiting = await self._act(cache)
                status = await self._look(cache, written or cache.status)
            except OSError as exc:
                logger.error("the cache's directory cannot be read", extra={"cause": str(exc)})
                await asyncio.sleep(WRITE_INTERVAL_S)
                continue
            self.status = status
            told = written is not None and without_heartbeat(status) == without_heartbeat(written)
            age = time.monotonic() - written_at
            if is_worth_telling_now(status, written) or (not told and age >= pause) or age >= HEARTBEAT_S:
                started = time.monotonic()
                if await self._write(status):
                    written, written_at, told = status, time.monotonic(), True
                    # a big status costs the API server as much as it takes us to write it: leave it ten times as long
                    pause = max(WRITE_INTERVAL_S, 10 * (written_at - started))
                    retry = BACKOFF_S[0]
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._reachable.wait(), retry * random.uniform(0.8, 1.2))
                    retry = min(retry * 2, BACKOFF_S[1])
            await asyncio.sleep(SHORTEST_INTERVAL_S)
            limits = [HEARTBEAT_S - (time.monotonic() - written_at)]
            limits += [DISCARD_RETRY_S] if waiting else []
            limits += [CAPTURE_LOOK_S] if self._captures.is_waiting() else []
            # bytes that arrive are not announced: look again for as long as some are on their way
            moving = any(layer.state == "Fetching" for layer in status.layers)
            limits += [max(0.0, pause - (time.monotonic() - written_at)) or pause] if moving or not told else []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, min(limits)))

    async def _act(self, cache: NodeCache) -> bool:
        """Pass on the wishes of a new generation, and try every discard that is left; True when some are left."""
        if self._acted != _identity(cache):
            self._volumes.condemned = frozenset(cache.spec.discard)
            self._supply.want(cache.spec.layers)
        waiting = await self._captures.act(cache.spec.captures)
        if cache.spec.discard:
            present = {volume.handle for volume in await asyncio.to_thread(self._volumes.overlays)}
            for handle in sorted(present.intersection(cache.spec.discard)):
                waiting |= not await self._discard(handle)
        self._acted = _identity(cache)
        return waiting

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

    async def _look(self, cache: NodeCache, previous: NodeCacheStatus) -> NodeCacheStatus:
        volumes = await asyncio.to_thread(self._volumes.overlays)
        return build_status(
            cache,
            self._acted[1],
            self._supply.snapshot(),
            volumes,
            previous,
            captures=self._captures.reports(),
            peer_address=self._peer_address,
            now=datetime.now(UTC),
        )

    async def _write(self, status: NodeCacheStatus) -> bool:
        try:
            await self._api.write_status(status)
        except KigiError as exc:
            metrics.STATUS_WRITES.labels("error").inc()
            self._reachable.clear()
            logger.warning("status not written", extra={"cause": str(exc)})
            return False
        self._heard = time.monotonic()
        metrics.STATUS_WRITES.labels("ok").inc()
        return True

    async def _tell(self) -> None:
        while True:
            reason, message = await self._events.get()
            for _ in range(EVENT_ATTEMPTS):
                try:
                    await self._api.warn(self._cache.metadata.uid if self._cache else "", reason, message)
                    break
                except KigiError as exc:
                    logger.warning("event not written", extra={"event": reason, "cause": str(exc)})
                    await asyncio.sleep(BACKOFF_S[1])


def _identity(cache: NodeCache) -> tuple[str, int]:
    return cache.metadata.uid, cache.metadata.generation
