"""What a namespace may use that no SystemQuota selects, so that one tenant alone never takes all that the nodes have.

The limits are shares of what the nodes report: no number fits every cluster, and a share needs no setting. A
SystemQuota that selects the namespace replaces all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median_low

from kigi.planning.quotas import OVERLAYS, PREFETCHED, WANTED, Limit

PERCENT = {WANTED: 75, PREFETCHED: 50, OVERLAYS: 75}
"""Of what layers may use on all nodes, or for overlays, of the space that layers and overlays use and that is free. A
quarter is left to the others. Nothing may be pinned without a SystemQuota."""
MOST_OF_MEDIAN = 4
"""A node counts for at most so many times the median: a stolen one reports what it wants."""


@dataclass(frozen=True, slots=True)
class NodeSpace:
    """What the daemon of one node has reported."""

    budget_bytes: int
    """Space that layers may use."""
    disk_bytes: int
    """Space of layers and overlays, and free space."""


def default_limit(nodes: Iterable[NodeSpace]) -> Limit | None:
    """The limits of each namespace without a SystemQuota; None while no node has reported. O(n log n)."""
    known = [node for node in nodes if node.budget_bytes > 0 and node.disk_bytes > 0]
    if not known:
        return None
    budget_bytes = _total(node.budget_bytes for node in known)
    disk_bytes = _total(node.disk_bytes for node in known)
    base = {WANTED: budget_bytes, PREFETCHED: budget_bytes, OVERLAYS: disk_bytes}
    return Limit(quota="", hard={name: base[name] * percent // 100 for name, percent in PERCENT.items()})


def _total(sizes: Iterable[int]) -> int:
    found = list(sizes)
    most = MOST_OF_MEDIAN * median_low(found)
    return sum(min(size, most) for size in found)
