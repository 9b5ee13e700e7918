"""A clock in place of real time: it moves only when a test advances it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from kigi_cache.clock import Clock

EPOCH_S = 1_700_000_000.0


@dataclass
class ManualClock:
    """``clock`` is what the code under test gets. Use it from one event loop; ``block`` may be called in threads.

    time = ManualClock()
    task = asyncio.create_task(worker(time.clock))
    assert await time.next_wake() == 30.0      # the worker sleeps, for thirty seconds
    time.advance(30.0)                         # and continues
    """

    now_s: float = 0.0
    """Monotonic time."""
    epoch_s: float = EPOCH_S
    """The wall clock's lead; change it to set the machine's clock."""
    blocked_s: list[float] = field(default_factory=list)
    """Arguments of all ``block`` calls, in order; each advanced the time."""
    _sleeps: dict[asyncio.Future[None], float] = field(default_factory=dict)
    _slept: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.epoch_s + self.now_s, lambda: self.now_s, self._sleep, self._block)

    def advance(self, seconds: float) -> None:
        """Move the time; every sleep whose end has come returns, at the event loop's next turn."""
        self.now_s += seconds
        for future, end_s in list(self._sleeps.items()):
            if end_s <= self.now_s + 1e-9 and not future.done():
                future.set_result(None)

    def pending(self) -> list[float]:
        """Ends of all sleeps now in progress, the earliest first."""
        return sorted(end_s for future, end_s in self._sleeps.items() if not future.done())

    async def next_wake(self, timeout_s: float = 10.0) -> float:
        """End of the earliest sleep; waits (in real time) until something sleeps."""
        async with asyncio.timeout(timeout_s):
            while not self.pending():
                self._slept.clear()
                await self._slept.wait()
        return self.pending()[0]

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._sleeps[future] = self.now_s + seconds
        self._slept.set()
        try:
            await future
        finally:
            del self._sleeps[future]

    def _block(self, seconds: float) -> None:
        self.blocked_s.append(seconds)
        self.now_s += seconds
