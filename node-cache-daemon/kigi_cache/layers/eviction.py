"""Which layers leave a node's cache when others need the room; pure.

Layers are kept by need: one that a volume stands on always, one that a disk waits for before one only kept warm, and
that before one that nobody asks for. Within one need the least recently needed leaves first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from kigi.domain.layers import Digest
from kigi.domain.quantities import format_bytes
from kigi.errors import BudgetExceeded


class Need(IntEnum):
    """Why a layer is in the cache; the greater, the longer it stays."""

    IDLE = 0
    PREFETCH = 1
    WANTED = 2
    """A disk on the node is made of it, or will be."""
    RUNNING = 3
    """A volume links it, or it is pinned: never evicted."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes layers may take. Above ``high`` the idle ones are evicted until ``low`` is reached."""

    limit_bytes: int
    high: float = 0.9
    low: float = 0.8


@dataclass(frozen=True, slots=True)
class HeldLayer:
    """One complete and verified layer."""

    digest: Digest
    size_bytes: int
    links: int = 0
    """Volumes that stand on it."""
    last_needed_s: float = 0.0
    """When a volume or a wish last named it; seconds since the epoch."""


def make_room(
    held: Iterable[HeldLayer],
    *,
    used_bytes: int,
    needed_bytes: int,
    needs: Mapping[Digest, Need],
    budget: Budget,
    asker: Need = Need.WANTED,
) -> list[Digest]:
    """Layers to evict so that ``needed_bytes`` more, needed as ``asker``, fit the budget.

    What is needed as much as the asker, or more, stays: two prefetches never push each other out. Raises
    BudgetExceeded, before anything is evicted or fetched, if all the rest is not enough. O(n log n).
    """
    over = used_bytes + needed_bytes - budget.limit_bytes
    evicted = free_up(held, over, needs, below=asker)
    if evicted is None:
        raise BudgetExceeded(
            f"{format_bytes(needed_bytes)} more do not fit: {format_bytes(used_bytes)} of the budget of "
            f"{format_bytes(budget.limit_bytes)} are taken by layers that are in use or wanted; raise "
            "KIGI_BUDGET_BYTES, delete deployments, or place them elsewhere"
        )
    return evicted


def free_up(
    held: Iterable[HeldLayer], bytes_: int, needs: Mapping[Digest, Need], *, below: Need
) -> list[Digest] | None:
    """The first to leave of those needed less than ``below``, until they make ``bytes_``; None if they do not."""
    evicted: list[Digest] = []
    for layer in evictable(held, needs, below=below):
        if bytes_ <= 0:
            break
        evicted.append(layer.digest)
        bytes_ -= layer.size_bytes
    return evicted if bytes_ <= 0 else None


def keep_low(
    held: Iterable[HeldLayer], *, used_bytes: int, needs: Mapping[Digest, Need], budget: Budget
) -> list[Digest]:
    """Idle layers to evict once the high-water mark is passed, down to the low-water mark."""
    if used_bytes <= budget.high * budget.limit_bytes:
        return []
    evicted: list[Digest] = []
    for layer in evictable(held, needs, below=Need.PREFETCH):
        if used_bytes <= budget.low * budget.limit_bytes:
            break
        evicted.append(layer.digest)
        used_bytes -= layer.size_bytes
    return evicted


def keep_few(held: Iterable[HeldLayer], needs: Mapping[Digest, Need], most: int) -> list[Digest]:
    """Idle layers to evict so that at most ``most`` are held: each is a line of the NodeCache, which has a size."""
    layers = list(held)
    surplus = len(layers) - most
    return [layer.digest for layer in evictable(layers, needs, below=Need.PREFETCH)[: max(0, surplus)]]


def evictable(held: Iterable[HeldLayer], needs: Mapping[Digest, Need], *, below: Need) -> list[HeldLayer]:
    """Layers needed less than ``below``, in the order in which they leave."""
    free = [layer for layer in held if need_of(layer, needs) < below]
    return sorted(free, key=lambda layer: (need_of(layer, needs), layer.last_needed_s, layer.digest))


def need_of(layer: HeldLayer, needs: Mapping[Digest, Need]) -> Need:
    """How much a held layer is needed; ``needs`` has those that somebody asks for."""
    return Need.RUNNING if layer.links else needs.get(layer.digest, Need.IDLE)
