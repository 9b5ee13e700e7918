"""Checks whether a copy of an overlay can be made, and its layer stored, before any VM is paused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from kigi.api.node_cache import CaptureOrder
from kigi.errors import ChainTooDeep, KigiError, NoRoom, PublisherSilent, VolumeUnknown
from kigi_cache.captures.files import CopyFiles
from kigi_cache.captures.space import CopySpace, copy_space, shortage_error, shortages, total_bytes
from kigi_cache.clock import Clock
from kigi_cache.disks.overlay_files import Extent
from kigi_cache.disks.volumes import Volumes

SILENT_AFTER_S = 60.0
"""A publisher without a heartbeat for this time counts as dead."""

Refusals = dict[str, KigiError | None]
"""Why an order cannot be carried out, by its id; None if it can."""


class CopyChecks:
    """Checks of orders against the overlays, the disk, the repository and the publisher of this node."""

    def __init__(
        self,
        files: CopyFiles,
        volumes: Volumes,
        *,
        clock: Clock,
        free_bytes: Callable[[], int],
        min_free_bytes: int,
        max_depth: Callable[[str], int],
        free_space: Callable[[int], Awaitable[None]] | None,
    ) -> None:
        """``free_bytes``: free space of the disk. ``min_free_bytes`` of it stay free for others. ``max_depth``: longest
        chain that a repository accepts, by its name; raises RepositoryUnknown. ``free_space`` evicts layers that no
        disk needs, if that frees the given number of bytes."""
        self._files = files
        self._volumes = volumes
        self._clock = clock
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes
        self._max_depth = max_depth
        self._free_space = free_space

    async def check(self, orders: Sequence[CaptureOrder]) -> Refusals:
        """Check all orders together. If space is missing, layers are evicted first, and the check is repeated."""
        refusals = await asyncio.to_thread(self._check, orders)
        if self._free_space is None or not any(isinstance(refusal, NoRoom) for refusal in refusals.values()):
            return refusals
        spaces = await asyncio.to_thread(self._spaces, orders)
        await self._free_space(total_bytes(space for _, space in spaces))
        return await asyncio.to_thread(self._check, orders)

    def check_space(self, orders: Sequence[CaptureOrder]) -> dict[str, KigiError]:
        """Refusals of the orders whose copies the disk has no space for, by id. Blocks."""
        short = shortages(self._spaces(orders), free_bytes=self._free_bytes(), min_free_bytes=self._min_free_bytes)
        return {id_: shortage_error(size, self._min_free_bytes) for id_, size in short.items()}

    def publisher_silence(self, waiting_since_s: float) -> PublisherSilent | None:
        """An error if the publisher is dead. ``waiting_since_s``: when a copy began to wait for it, since the epoch."""
        if not is_silent(self._files.publisher_seen_s(), waiting_since_s, self._clock.wall_s()):
            return None
        return PublisherSilent(
            "the container capture-publisher of the cache daemon's pod does not run, so that no layer is made; the "
            "capture continues when the container runs"
        )

    def _check(self, orders: Sequence[CaptureOrder]) -> Refusals:
        """Blocks. Cost: a few calls of the file system for each order."""
        refusals: Refusals = {order.id: self._obstacle(order) for order in orders}
        refusals.update(self.check_space([order for order in orders if refusals[order.id] is None]))
        return refusals

    def _obstacle(self, order: CaptureOrder) -> KigiError | None:
        """Any obstacle but missing space."""
        try:
            limit = self._max_depth(order.repository_name)
            found = self._measure(order)
        except VolumeUnknown:
            return None  # the VM never started, so there is nothing to copy
        except KigiError as exc:
            return exc
        except OSError as exc:
            return KigiError(f"overlay {order.volume} cannot be read: {exc.strerror}")
        if found.layers >= limit:
            return ChainTooDeep(
                f"its chain has {found.layers} layers, and repository {order.repository_name} takes {limit} "
                f"(LayerRepository {order.repository_name}: spec.limits.maxDepth)"
            )
        return self.publisher_silence(0.0)

    def _spaces(self, orders: Sequence[CaptureOrder]) -> list[tuple[str, CopySpace]]:
        """Space for each order, in their order, by id. Blocks."""
        spaces: list[tuple[str, CopySpace]] = []
        for order in orders:
            # An overlay that cannot be measured is refused by name when it is copied.
            with contextlib.suppress(KigiError, OSError):
                found = self._measure(order)
                space = copy_space(
                    allocated_bytes=found.allocated_bytes,
                    chain_bytes=found.chain_bytes,
                    virtual_bytes=order.virtual_size_bytes,
                )
                spaces.append((order.id, space))
        return spaces

    def _measure(self, order: CaptureOrder) -> Extent:
        return self._volumes.measure(order.volume, parent=order.parent_digest, size=order.virtual_size_bytes)


def is_silent(seen_s: float | None, waiting_since_s: float, now_s: float) -> bool:
    """Whether the publisher counts as dead: no heartbeat for SILENT_AFTER_S since a copy began to wait for it.

    All times are in seconds of one clock; ``seen_s`` is the last heartbeat.
    """
    return now_s - max(seen_s or 0.0, waiting_since_s) > SILENT_AFTER_S
