"""Orders of a SystemPrefetch to the nodes, in the memory of one operator.

The durable form of an order is the node's NodeCache: a node whose NodeCache lists every layer of the prefetch has its
turn. The orders bridge the time until that is written. An operator that starts has none: each node keeps the
prefetched layers of its NodeCache until the prefetch is planned, so that no node gains or loses a turn by a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Order = Literal["Hold", "Keep", "Drop"]
"""Hold: the NodeCache lists the layers of all states. Keep: its prefetched layers stay as they are. Drop: none."""


@dataclass(frozen=True, slots=True)
class PrefetchOrders:
    """Orders by one version of a prefetch; a node in neither set has the order Drop."""

    uid: str
    generation: int
    hold: frozenset[str] = frozenset()
    """Nodes that have their turn, or hold everything."""
    keep: frozenset[str] = frozenset()
    """Nodes that wait for their turn."""
    pinned: frozenset[str] = frozenset()
    """Nodes of ``hold`` whose layers no disk evicts."""


def order_of(orders: PrefetchOrders | None, uid: str, generation: int, node: str) -> Order:
    """The node's order by that version of the prefetch. Until it is planned, no NodeCache gains or loses layers."""
    if orders is None or orders.uid != uid or node in orders.keep:
        return "Keep"
    if node in orders.hold:
        return "Hold" if orders.generation == generation else "Keep"
    return "Drop"


def changed_nodes(old: PrefetchOrders | None, new: PrefetchOrders, nodes: Iterable[str]) -> list[str]:
    """Nodes that have another order by ``new``."""
    version = (new.uid, new.generation)
    pinned = old.pinned if old is not None else frozenset[str]()
    return [
        node
        for node in nodes
        if order_of(old, *version, node) != order_of(new, *version, node) or (node in pinned) != (node in new.pinned)
    ]
