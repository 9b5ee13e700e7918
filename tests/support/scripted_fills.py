"""A source of layers that a test controls, and a filler that fetches from it in manual time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kigi.domain.layers import Digest, Layer, layer_file_name
from kigi.errors import KigiError
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.retry import RetryPolicy
from kigi_cache.layers.store import Store
from tests.support.manual_clock import ManualClock

PIECE = 2**19


async def soon(check: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return when ``check`` is true. Threads and the event loop bring it about; the manual clock does not move."""
    async with asyncio.timeout(timeout_s):
        while True:
            if check():
                return
            await asyncio.sleep(0.002)


class ScriptedSource:
    """Gives the layers of a directory in pieces; after the first piece of each read it waits for ``go_on``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.go_on = threading.Event()
        self.starts: list[int] = []
        """First byte of each read."""
        self.faults: dict[Digest, Exception] = {}
        """Raised by reads of these layers."""
        self.distrusted: list[Digest] = []
        self.finished: list[Digest] = []

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        self.starts.append(start)
        if layer.digest in self.faults:
            raise self.faults[layer.digest]
        content = (self.directory / layer_file_name(layer.digest)).read_bytes()
        for offset in range(start, len(content), PIECE):
            yield memoryview(content[offset : offset + PIECE])
            assert self.go_on.wait(30)

    def distrust(self, digest: Digest) -> None:
        self.distrusted.append(digest)

    def done(self, digest: Digest) -> None:
        self.finished.append(digest)


@dataclass
class FillerRun:
    """A running filler. Its time moves only when the test advances ``time``."""

    filler: Filler
    source: ScriptedSource
    time: ManualClock
    errors: list[tuple[Digest, KigiError]] = field(default_factory=list)
    changes: int = 0

    def states(self) -> dict[str, str]:
        return {layer.digest: layer.state for layer in self.filler.snapshot().layers}

    async def until(self, state: str, *layers: Layer) -> None:
        """Until these layers, and no others, have that state."""
        await soon(lambda: self.states() == {layer.digest: state for layer in layers})


@asynccontextmanager
async def running(
    root: Path,
    source: ScriptedSource,
    *,
    budget: Budget | None = None,
    retry: RetryPolicy | None = None,
    max_transfers: int = 4,
    max_prefetches: int | None = None,
) -> AsyncIterator[FillerRun]:
    """A filler on a store in ``root``, without jitter unless ``retry`` has one."""
    time = ManualClock()
    filler = Filler(
        Store(root, clock=time.clock),
        source,
        budget or Budget(2**30),
        max_transfers=max_transfers,
        max_prefetches=max_prefetches,
        retry=retry or RetryPolicy(jitter=0.0),
        clock=time.clock,
        on_change=lambda: note_change(),
        on_error=lambda digest, error: run.errors.append((digest, error)),
    )
    run = FillerRun(filler, source, time)

    def note_change() -> None:
        run.changes += 1

    task = asyncio.create_task(filler.run())
    await soon(filler.is_recovered)
    try:
        yield run
        assert not task.done(), task.exception()
    finally:
        source.go_on.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
