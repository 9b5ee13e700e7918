"""Which layers to evict from a node's cache, and in which order; pure.

A layer is evicted only for a request of a higher need. A layer that a volume links is never evicted, a layer that a
disk waits for outlasts a prefetched one, and a prefetched one outlasts an idle one. Within one need the least recently
needed layer goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from kigi.domain.layers import Digest
from kigi.domain.quantities import format_bytes
from kigi.errors import BudgetExceeded

RESERVE_BYTES = 256 * 2**20
"""Free space that no fill ever uses, whatever is configured: overlays on the same file system grow into it."""


class Need(IntEnum):
    """Why a layer is in the cache. A layer is evicted only for a request of a higher need."""

    IDLE = 0
    PREFETCH = 1
    WANTED = 2
    """A disk on the node is made of it, or will be."""
    RUNNING = 3
    """A volume links it, or it is pinned: never evicted."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Space that layers may use. Above the share ``high`` of the limit, idle layers are evicted down to ``low``."""

    limit_bytes: int
    high: float = 0.9
    low: float = 0.8
    min_free_bytes: int = 0
    """Free space of the file system that layers leave to others (KIGI_MIN_FREE)."""
    reserve_bytes: int = RESERVE_BYTES

    @property
    def kept_free_bytes(self) -> int:
        """Free space below which nothing is fetched and idle and prefetched layers are evicted."""
        return max(self.min_free_bytes, self.reserve_bytes)


@dataclass(frozen=True, slots=True)
class HeldLayer:
    """One complete and verified layer."""

    digest: Digest
    size_bytes: int
    links: int = 0
    """Hard links beside the store's own: volumes that use it."""
    last_needed_s: float = 0.0
    """When a volume or the NodeCache last named it; seconds since the epoch."""


def victims_for_budget(
    held: Iterable[HeldLayer],
    *,
    used_bytes: int,
    needed_bytes: int,
    needs: Mapping[Digest, Need],
    budget: Budget,
    requester: Need = Need.WANTED,
) -> list[Digest]:
    """Layers to evict so that ``needed_bytes`` more, requested with the need ``requester``, fit the budget.

    Only layers of a lower need than the requester's are chosen: two prefetches never evict each other. Raises
    BudgetExceeded if evicting all of them would not be enough; then nothing is evicted. O(n log n).
    """
    surplus = used_bytes + needed_bytes - budget.limit_bytes
    victims = victims_freeing(held, surplus, needs, below=requester)
    if victims is None:
        raise BudgetExceeded(
            f"{format_bytes(needed_bytes)} more do not fit: {format_bytes(used_bytes)} of the budget of "
            f"{format_bytes(budget.limit_bytes)} are taken by layers that are in use or wanted; raise "
            "KIGI_BUDGET_BYTES, delete deployments, or place them elsewhere"
        )
    return victims


def victims_freeing(
    held: Iterable[HeldLayer], bytes_: int, needs: Mapping[Digest, Need], *, below: Need
) -> list[Digest] | None:
    """The fewest layers, in eviction order, of lower need than ``below`` that free ``bytes_``; None if all do not."""
    victims: list[Digest] = []
    for layer in evictable(held, needs, below=below):
        if bytes_ <= 0:
            break
        victims.append(layer.digest)
        bytes_ -= layer.size_bytes
    return victims if bytes_ <= 0 else None


def victims_above_high_water(
    held: Iterable[HeldLayer], *, used_bytes: int, needs: Mapping[Digest, Need], budget: Budget
) -> list[Digest]:
    """Idle layers to evict down to the low-water mark; none while usage is not above the high-water mark."""
    if used_bytes <= budget.high * budget.limit_bytes:
        return []
    victims: list[Digest] = []
    for layer in evictable(held, needs, below=Need.PREFETCH):
        if used_bytes <= budget.low * budget.limit_bytes:
            break
        victims.append(layer.digest)
        used_bytes -= layer.size_bytes
    return victims


def victims_beyond(held: Iterable[HeldLayer], needs: Mapping[Digest, Need], limit: int) -> list[Digest]:
    """Idle layers to evict so that at most ``limit`` are held: the NodeCache lists each, and its size is limited."""
    layers = list(held)
    surplus = len(layers) - limit
    return [layer.digest for layer in evictable(layers, needs, below=Need.PREFETCH)[: max(0, surplus)]]


def evictable(held: Iterable[HeldLayer], needs: Mapping[Digest, Need], *, below: Need) -> list[HeldLayer]:
    """Layers of lower need than ``below``, in eviction order."""
    candidates = [layer for layer in held if need_of(layer, needs) < below]
    return sorted(candidates, key=lambda layer: (need_of(layer, needs), layer.last_needed_s, layer.digest))


def need_of(layer: HeldLayer, needs: Mapping[Digest, Need]) -> Need:
    """Need of a held layer. ``needs`` has the requested layers; a linked layer is RUNNING, any other IDLE."""
    return Need.RUNNING if layer.links else needs.get(layer.digest, Need.IDLE)
