"""When the status is written (immediately for news, seldom for progress in bytes), and when the Lease. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kigi.api.node_cache import NodeCacheStatus
from kigi.domain.heartbeat import HEARTBEAT_S
from kigi_cache.node.status_report import is_changed, is_news

PROGRESS_INTERVAL_S = 1.0
"""Least time between writes that only report more bytes."""
WRITE_SHARE = 10
"""Progress is written at most a tenth of the time: a large status costs the API server about what it costs us."""


@dataclass(frozen=True, slots=True)
class StatusSchedule:
    """What was last written about one NodeCache object, and when. Times are monotonic, in seconds."""

    uid: str = ""
    written: NodeCacheStatus | None = None
    written_at_s: float = -math.inf
    beat_at_s: float = -math.inf
    """When the Lease was last renewed."""
    interval_s: float = 0.1
    """Least time between writes of progress."""

    def of_object(self, uid: str) -> StatusSchedule:
        """The schedule for the object with that uid: a recreated object has no status yet."""
        return self if uid == self.uid else StatusSchedule(uid, interval_s=self.interval_s)

    def is_lost(self, uid: str, stored: NodeCacheStatus) -> bool:
        """Whether the object with that uid has another status than the one that was written."""
        return self.written is not None and uid == self.uid and is_news(self.written, stored)

    def begun_again(self) -> StatusSchedule:
        """The schedule for an object whose status is not the written one."""
        return replace(self, written=None)

    def is_due(self, status: NodeCacheStatus, now_s: float) -> bool:
        """Whether to write ``status`` now."""
        age_s = now_s - self.written_at_s
        if is_news(status, self.written):
            return True
        return is_changed(status, self.written) and age_s >= self.interval_s

    def is_beat_due(self, now_s: float) -> bool:
        """Whether to renew the Lease now."""
        return now_s - self.beat_at_s >= HEARTBEAT_S

    def after_write(self, status: NodeCacheStatus, started_s: float, ended_s: float) -> StatusSchedule:
        """The schedule after a successful write."""
        interval_s = max(PROGRESS_INTERVAL_S, WRITE_SHARE * (ended_s - started_s))
        return replace(self, written=status, written_at_s=ended_s, interval_s=interval_s)

    def after_beat(self, at_s: float) -> StatusSchedule:
        """The schedule after the Lease was renewed."""
        return replace(self, beat_at_s=at_s)

    def next_check_s(self, status: NodeCacheStatus, now_s: float) -> float:
        """Seconds until the status must be built again even if no change is announced.

        Arriving bytes are not announced, so while layers are being fetched the status is rebuilt at each interval.
        """
        age_s = now_s - self.written_at_s
        limit_s = HEARTBEAT_S - (now_s - self.beat_at_s)
        is_fetching = any(layer.state == "Fetching" for layer in status.layers)
        if is_fetching or is_changed(status, self.written):
            limit_s = min(limit_s, max(0.0, self.interval_s - age_s) or self.interval_s)
        return max(0.0, limit_s)
