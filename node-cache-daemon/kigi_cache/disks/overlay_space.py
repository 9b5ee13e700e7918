"""Keeps headroom behind running overlays, and reports which of them fill the disk."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kigi_cache.clock import Clock
from kigi_cache.disks.headroom import (
    OverlaySize,
    SpaceReport,
    describe_growth,
    overlays_to_stop,
    plan_headroom,
    written_step,
)
from kigi_cache.disks.volumes import Volumes

logger = logging.getLogger(__name__)

CHECK_S = 2.0
COUNT_CHECKS = 30
"""Number of checks after which the use of each namespace is counted again: a minute."""
USE_STEP_BYTES = 64 * 2**20
WINDOW = 60
"""Number of checks over which growth counts: two minutes."""


class OverlaySpace:
    """The space of the overlays of one node. ``run`` keeps it up to date."""

    def __init__(
        self,
        volumes: Volumes,
        clock: Clock,
        free_bytes: Callable[[], int],
        *,
        headroom_bytes: int,
        warn_below_bytes: int,
        on_change: Callable[[SpaceReport], None],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """``on_change`` gets the report when another machine is named first, another list, or another use.

        ``is_ready``: whether the overlays can be read; nothing is measured before.
        """
        self._volumes = volumes
        self._clock = clock
        self._free_bytes = free_bytes
        self._headroom_bytes = headroom_bytes
        self._warn_below_bytes = warn_below_bytes
        self._on_change = on_change
        self._is_ready = is_ready
        self._checks = 0
        self._sizes: dict[str, deque[int]] = {}
        self._first = ""
        self.report = SpaceReport()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            if self._is_ready():
                await self.check()
            await self._clock.sleep(CHECK_S)

    async def check(self) -> None:
        """Measure all mounted overlays once, and allocate what they lack. Raises OSError."""
        overlays = [self._noted(each) for each in await asyncio.to_thread(self._volumes.sizes)]
        self._sizes = {each.handle: self._sizes[each.handle] for each in overlays}
        free_bytes = await asyncio.to_thread(self._free_bytes)
        for planned in plan_headroom(overlays, free_bytes=free_bytes, headroom_bytes=self._headroom_bytes):
            await asyncio.to_thread(self._volumes.reserve, planned.handle, planned.size_bytes)
        report = SpaceReport(
            describe_growth(overlays, free_bytes=free_bytes, warn_below_bytes=self._warn_below_bytes),
            tuple(self._filling(overlays, free_bytes)),
            *await self._used_bytes(),
        )
        first = max(overlays, key=lambda each: each.grown_bytes).handle if report.pressure else ""
        before = (self._first, replace(self.report, pressure=""))
        is_new = (first, replace(report, pressure="")) != before
        self._first, self.report = first, report
        if is_new:
            self._on_change(report)

    def _filling(self, overlays: Sequence[OverlaySize], free_bytes: int) -> list[str]:
        """A paused machine does not grow any more: it stays in the list while the disk is full and it is mounted."""
        if free_bytes >= self._warn_below_bytes:
            return []
        mounted = {each.handle for each in overlays}
        kept = [handle for handle in self.report.filling if handle in mounted]
        found = overlays_to_stop(overlays, free_bytes=free_bytes, warn_below_bytes=self._warn_below_bytes)
        return [*kept, *(handle for handle in found if handle not in kept)]

    async def _used_bytes(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Bytes by namespace and by overlay, rounded up, as counted at most a minute ago."""
        self._checks += 1
        if self._checks % COUNT_CHECKS != 1:
            return self.report.used_bytes, self.report.written_bytes
        found = await asyncio.to_thread(self._volumes.used_bytes)
        used: Counter[str] = Counter()
        for handle, size in found.items():
            used[handle.split(".")[1]] += size
        steps = {name: -(-size // USE_STEP_BYTES) * USE_STEP_BYTES for name, size in sorted(used.items())}
        return steps, {handle: written_step(size) for handle, size in sorted(found.items())}

    def _noted(self, overlay: OverlaySize) -> OverlaySize:
        sizes = self._sizes.setdefault(overlay.handle, deque(maxlen=WINDOW))
        sizes.append(overlay.size_bytes)
        return replace(overlay, grown_bytes=max(0, sizes[-1] - sizes[0]))
