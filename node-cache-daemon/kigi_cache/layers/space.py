"""Space for layers: within the budget, and in a file system that others use too. Evicts what ``eviction`` chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from kigi.api.node_cache import MAX_LAYERS
from kigi.domain.layers import Digest, Layer
from kigi.domain.quantities import format_bytes
from kigi.errors import BudgetExceeded, DiskPressure, NoRoom, PrefetchWaits
from kigi_cache import metrics
from kigi_cache.layers.eviction import (
    Budget,
    Need,
    evictable,
    victims_above_high_water,
    victims_beyond,
    victims_for_budget,
    victims_freeing,
)
from kigi_cache.layers.store import Store


class Space:
    """The space of one store. Methods belong to one event loop; the store is called in threads.

    ``needs`` gives the needs of all requested layers, anew for each decision. ``on_change`` is called after each
    eviction.
    """

    def __init__(
        self,
        store: Store,
        budget: Budget,
        needs: Callable[[], Mapping[Digest, Need]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._budget = budget
        self._needs = needs
        self._on_change = on_change
        self._reserved: dict[Digest, int] = {}

    async def reserve(self, layer: Layer, requester: Need) -> None:
        """Make space for a layer before its first byte is fetched, and count it until ``release``.

        Evicts layers of lower need. Raises BudgetExceeded (PrefetchWaits for a prefetch that may fit later), NoRoom or
        DiskPressure.
        """
        held = await asyncio.to_thread(self._store.held)
        try:
            victims = victims_for_budget(
                held.values(),
                used_bytes=sum(each.size_bytes for each in held.values()) + sum(self._reserved.values()),
                needed_bytes=layer.size_bytes,
                needs=self._needs(),
                budget=self._budget,
                requester=requester,
            )
        except BudgetExceeded as exc:
            if requester == Need.PREFETCH and layer.size_bytes <= self._budget.limit_bytes:
                raise PrefetchWaits(f"layer {layer.digest} is prefetched when there is space: {exc}") from exc
            raise
        self._reserved[layer.digest] = layer.size_bytes
        await self._evict(victims, requester)
        missing_bytes = layer.size_bytes - await asyncio.to_thread(self._store.part_bytes, layer.digest)
        free_bytes = await self.free(missing_bytes, requester)
        check_free(layer.digest, missing_bytes, free_bytes, self._budget)

    def release(self, digest: Digest) -> None:
        """End a reservation: the layer is held, or its fetch has ended."""
        self._reserved.pop(digest, None)

    async def free(self, bytes_: int, requester: Need) -> int:
        """Evict layers of lower need than ``requester`` if that gives ``bytes_`` beside the space kept free.

        If it does not, no layer is evicted. Returns the free bytes of the file system afterwards.
        """
        free_bytes = await asyncio.to_thread(self._store.free_bytes)
        if free_bytes >= bytes_ + self._budget.kept_free_bytes:
            return free_bytes
        short_bytes = await self._short_after_quarantine(bytes_)
        held = await asyncio.to_thread(self._store.held)
        victims = victims_freeing(held.values(), short_bytes, self._needs(), below=requester)
        await self._evict(victims or [], requester)
        return await asyncio.to_thread(self._store.free_bytes)

    async def relieve_pressure(self) -> None:
        """Evict idle and prefetched layers, all of them if need be, while others fill the file system."""
        if await asyncio.to_thread(self._store.free_bytes) >= self._budget.kept_free_bytes:
            return
        short_bytes = await self._short_after_quarantine(0)
        held = await asyncio.to_thread(self._store.held)
        needs = self._needs()
        victims = victims_freeing(held.values(), short_bytes, needs, below=Need.WANTED)
        if victims is None:
            victims = [layer.digest for layer in evictable(held.values(), needs, below=Need.WANTED)]
        await self._evict(victims, Need.WANTED)

    async def evict_idle(self) -> None:
        """Evict idle layers above the high-water mark, and those that the NodeCache cannot list."""
        held = await asyncio.to_thread(self._store.held)
        needs = self._needs()
        used_bytes = sum(layer.size_bytes for layer in held.values())
        idle = victims_above_high_water(held.values(), used_bytes=used_bytes, needs=needs, budget=self._budget)
        surplus = victims_beyond(held.values(), needs, MAX_LAYERS)
        await self._evict(dict.fromkeys([*idle, *surplus]), Need.PREFETCH)

    async def _short_after_quarantine(self, bytes_: int) -> int:
        """Bytes still missing after the quarantined files, which nothing needs, were deleted."""
        await asyncio.to_thread(self._store.empty_quarantine)
        return bytes_ + self._budget.kept_free_bytes - await asyncio.to_thread(self._store.free_bytes)

    async def _evict(self, victims: Iterable[Digest], requester: Need) -> None:
        """Evict those whose need is still below the requester's: a request may have arrived since they were chosen."""
        for victim in victims:
            kept = {digest for digest, need in self._needs().items() if need >= requester}
            if await asyncio.to_thread(self._store.evict, victim, kept):
                metrics.EVICTED.inc()
                self._on_change()


def check_free(digest: Digest, missing_bytes: int, free_bytes: int, budget: Budget) -> None:
    """Raise NoRoom or DiskPressure unless ``missing_bytes`` fit beside the space that the budget keeps free."""
    numbers = (
        f"layer {digest}: {format_bytes(missing_bytes)} to fetch, {format_bytes(free_bytes)} free on the cache's disk"
    )
    if missing_bytes + budget.reserve_bytes > free_bytes:
        raise NoRoom(f"{numbers}, of which {format_bytes(budget.reserve_bytes)} stay free; free some space")
    if missing_bytes + budget.kept_free_bytes > free_bytes:
        raise DiskPressure(
            f"{numbers}, of which {format_bytes(budget.kept_free_bytes)} stay free (KIGI_MIN_FREE), or the "
            "kubelet would evict pods; free some space"
        )
