"""A token bucket without a clock or sleeps: the caller passes the time and waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Limits a transfer to ``bytes_per_s`` on average, with bursts of up to ``burst_s`` seconds' worth; 0: no limit."""

    bytes_per_s: float
    burst_s: float = 1.0
    _tokens: float = 0.0
    _taken_at_s: float | None = None

    def take(self, bytes_: int, now_s: float) -> float:
        """Take ``bytes_`` and return the seconds to wait before the next call. ``now_s`` is of a monotonic clock."""
        if self.bytes_per_s <= 0:
            return 0.0
        capacity = self.bytes_per_s * self.burst_s
        elapsed_s = now_s - self._taken_at_s if self._taken_at_s is not None else self.burst_s
        self._taken_at_s = now_s
        self._tokens = min(capacity, self._tokens + elapsed_s * self.bytes_per_s) - bytes_
        return max(0.0, -self._tokens / self.bytes_per_s)
