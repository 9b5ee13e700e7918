"""The limits of namespaces without a SystemQuota, from what the NodeCaches report."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kigi.mirror.records import CacheRecord
from kigi.planning.default_quota import NodeSpace, default_limit
from kigi.planning.quotas import Limit

SPACE_AGE_S = 10.0
"""The nodes' space is summed again after this time: for 1,000 nodes it takes 1 ms, and each instance's plan asks."""


class DefaultQuota:
    """Remembers the limits for SPACE_AGE_S."""

    def __init__(self, caches: Iterable[CacheRecord], clock: Callable[[], float]) -> None:
        """``clock`` returns monotonic seconds."""
        self._caches, self._clock = caches, clock
        self._limit: Limit | None = None
        self._at_s = float("-inf")

    def limit(self) -> Limit | None:
        """See ``planning.default_quota.default_limit``. O(1), and O(n log n) in the number of nodes once in a while."""
        now_s = self._clock()
        if self._limit is None or now_s - self._at_s >= SPACE_AGE_S:
            spaces = (NodeSpace(cache.budget_bytes, cache.disk_bytes) for cache in self._caches)
            self._limit, self._at_s = default_limit(spaces), now_s
        return self._limit
