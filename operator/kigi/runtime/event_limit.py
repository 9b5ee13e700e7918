"""Limits the events about one object: a condition that alternates must not fill etcd.

Source: the same idea as ``EventSourceObjectSpamFilter`` of Kubernetes client-go tools/record.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 100
"""Events about one object without a pause."""
REFILL_S = 60.0
"""Seconds until one more event is allowed. etcd keeps events for an hour: at most 160 of one object."""
OBJECTS = 4096
"""Objects with a bucket; the one whose last event is oldest loses its bucket first."""


class EventLimit:
    """A token bucket for each object. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By uid: events left, and the time of that count."""

    def allows(self, uid: str) -> bool:
        """Takes one token of the object; False if none is left."""
        now = self._clock()
        left, at = self._left.pop(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - at) / REFILL_S)
        allowed = left >= 1
        self._left[uid] = (left - 1 if allowed else left, now)
        while len(self._left) > OBJECTS:
            self._left.popitem(last=False)
        return allowed
