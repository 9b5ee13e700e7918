"""Which layers leave a node's cache when others need the room; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kigi.domain.layers import Digest
from kigi.domain.quantities import format_bytes
from kigi.errors import BudgetExceeded


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
    held: Iterable[HeldLayer], *, used_bytes: int, needed_bytes: int, wanted: Collection[Digest], budget: Budget
) -> list[Digest]:
    """Layers to evict so that ``needed_bytes`` more fit the budget; the least recently needed first.

    Evictable is only what no volume links and nothing wants. Raises BudgetExceeded, before anything is evicted or
    fetched, if all of that is not enough. O(n log n).
    """
    over = used_bytes + needed_bytes - budget.limit_bytes
    if over <= 0:
        return []
    evicted: list[Digest] = []
    for layer in evictable(held, wanted):
        evicted.append(layer.digest)
        over -= layer.size_bytes
        if over <= 0:
            return evicted
    raise BudgetExceeded(
        f"{format_bytes(needed_bytes)} more do not fit: {format_bytes(used_bytes)} of the budget of "
        f"{format_bytes(budget.limit_bytes)} are taken by layers that are in use or wanted; raise KIGI_BUDGET_BYTES, "
        "delete deployments, or place them elsewhere"
    )


def keep_low(held: Iterable[HeldLayer], *, used_bytes: int, wanted: Collection[Digest], budget: Budget) -> list[Digest]:
    """Idle layers to evict once the high-water mark is passed, down to the low-water mark."""
    if used_bytes <= budget.high * budget.limit_bytes:
        return []
    evicted: list[Digest] = []
    for layer in evictable(held, wanted):
        if used_bytes <= budget.low * budget.limit_bytes:
            break
        evicted.append(layer.digest)
        used_bytes -= layer.size_bytes
    return evicted


def evictable(held: Iterable[HeldLayer], wanted: Collection[Digest]) -> list[HeldLayer]:
    """Layers that nobody needs, the least recently needed first."""
    idle = [layer for layer in held if layer.links == 0 and layer.digest not in wanted]
    return sorted(idle, key=lambda layer: (layer.last_needed_s, layer.digest))
