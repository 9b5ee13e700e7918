"""A clock that tests advance, with scheduled calls that run when their time comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Scheduled:
    """One call; ``cancel`` prevents it."""

    at: float
    function: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeTime:
    """Monotonic seconds: call it as a clock, give ``schedule`` to what delays calls."""

    now: float = 1000.0
    calls: list[Scheduled] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def schedule(self, delay_s: float, function: Callable[[], None]) -> Scheduled:
        call = Scheduled(self.now + delay_s, function)
        self.calls.append(call)
        return call

    async def sleep(self, seconds: float) -> None:
        """Passes the time without waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Lets time pass, and runs the calls whose time has come, in their order."""
        end = self.now + seconds
        while due := sorted((c for c in self.calls if c.at <= end and not c.cancelled), key=lambda call: call.at):
            call = due[0]
            self.calls.remove(call)
            self.now = max(self.now, call.at)
            call.function()
        self.now = end

    @property
    def pending(self) -> list[float]:
        """Delays of the calls that are still to come, shortest first."""
        return sorted(call.at - self.now for call in self.calls if not call.cancelled)
