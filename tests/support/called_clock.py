"""A clock that is called for its time, and that a test or a sleep moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CalledClock:
    """``clock()`` is the time in seconds; ``clock.sleep`` moves it at once."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
