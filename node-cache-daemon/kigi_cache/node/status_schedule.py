"""When the status is written: immediately for news, seldom for progress in bytes, regularly as a heartbeat. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kigi.api.node_cache import NodeCacheStatus
from kigi_cache.node.status_report import is_news, without_heartbeat

PROGRESS_INTERVAL_S = 1.0
"""Least time between writes that only report more bytes."""
HEARTBEAT_S = 30.0
WRITE_SHARE = 10
"""Progress is written at most a tenth of the time: a large status costs the API server about what it costs us."""


@dataclass(frozen=True, slots=True)
class StatusSchedule:
    """What was last written of one NodeCache object, and when. Times are monotonic, in seconds."""

    uid: str = ""
    written: NodeCacheStatus | None = None
    written_at_s: float = -math.inf
    interval_s: float = 0.1
    """Least time between writes of progress."""

    def of_object(self, uid: str) -> StatusSchedule:
        """The schedule for the object with that uid: a recreated object has no status yet."""
        return self if uid == self.uid else StatusSchedule(uid, interval_s=self.interval_s)

    def is_due(self, status: NodeCacheStatus, now_s: float) -> bool:
        """Whether to write ``status`` now."""
        age_s = now_s - self.written_at_s
        if is_news(status, self.written) or age_s >= HEARTBEAT_S:
            return True
        return not self.is_written(status) and age_s >= self.interval_s

    def is_written(self, status: NodeCacheStatus) -> bool:
        """Whether the object has all of ``status`` except the time of the heartbeat."""
        return self.written is not None and without_heartbeat(status) == without_heartbeat(self.written)

    def after_write(self, status: NodeCacheStatus, started_s: float, ended_s: float) -> StatusSchedule:
        """The schedule after a successful write."""
        interval_s = max(PROGRESS_INTERVAL_S, WRITE_SHARE * (ended_s - started_s))
        return replace(self, written=status, written_at_s=ended_s, interval_s=interval_s)

    def next_check_s(self, status: NodeCacheStatus, now_s: float) -> float:
        """Seconds until the status must be built again even if no change is announced.

        Arriving bytes are not announced, so while layers are being fetched the status is rebuilt at each interval.
        """
        age_s = now_s - self.written_at_s
        limit_s = HEARTBEAT_S - age_s
        is_fetching = any(layer.state == "Fetching" for layer in status.layers)
        if is_fetching or not self.is_written(status):
            limit_s = min(limit_s, max(0.0, self.interval_s - age_s) or self.interval_s)
        return max(0.0, limit_s)
