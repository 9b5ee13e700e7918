"""A limit on a rate of bytes, as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """A token bucket: ``bytes_per_s`` on average, up to ``burst_s`` seconds' worth at once; 0 is no limit."""

    bytes_per_s: float
    burst_s: float = 1.0
    _tokens: float = 0.0
    _at_s: float | None = None

    def wait_s(self, bytes_: int, now_s: float) -> float:
        """Take ``bytes_``, and the seconds to wait before the next; ``now_s`` is of a clock that never goes back."""
        if self.bytes_per_s <= 0:
            return 0.0
        most = self.bytes_per_s * self.burst_s
        passed = now_s - self._at_s if self._at_s is not None else self.burst_s
        self._at_s = now_s
        self._tokens = min(most, self._tokens + passed * self.bytes_per_s) - bytes_
        return max(0.0, -self._tokens / self.bytes_per_s)
