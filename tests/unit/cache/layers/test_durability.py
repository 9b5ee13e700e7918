"""When held layers are persisted; the store is a fake, and time is manual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from kigi.domain.layers import Digest
from kigi_cache.layers.durability import MAX_DELAY_S, RETRY_S, Persister
from kigi_cache.layers.store import Store
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon

A, B = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)


class Disk:
    def __init__(self, *unpersisted: Digest) -> None:
        self.pending = list(unpersisted)
        self.persisted: list[Digest] = []
        self.broken: set[Digest] = set()
        self.full = False

    def flush(self) -> None:
        pass

    def unpersisted(self) -> list[Digest]:
        return list(self.pending)

    def persist(self, digest: Digest) -> bool:
        if self.full:
            raise OSError(28, "No space left on device")
        self.pending.remove(digest)
        if digest in self.broken:
            return False
        self.persisted.append(digest)
        return True


@asynccontextmanager
async def persisting(disk: Disk, time: ManualClock, damage: list[Digest]) -> AsyncIterator[Persister]:
    persister = Persister(cast(Store, disk), time.clock, lambda digest, cause: damage.append(digest))
    task = asyncio.create_task(persister.run())
    try:
        yield persister
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_layers_are_persisted_when_no_transfer_runs() -> None:
    disk, time = Disk(A, B), ManualClock()
    async with persisting(disk, time, []) as persister:
        await time.next_wake()
        assert disk.persisted == []
        persister.idle.set()
        await soon(lambda: disk.persisted == [A, B])
        assert time.now_s == 0.0


async def test_during_transfers_each_layer_waits_five_seconds_at_most() -> None:
    disk, time = Disk(A, B), ManualClock()
    async with persisting(disk, time, []):
        assert await time.next_wake() == MAX_DELAY_S
        time.advance(MAX_DELAY_S)
        await soon(lambda: disk.persisted == [A])
        assert await time.next_wake() == 2 * MAX_DELAY_S
        time.advance(MAX_DELAY_S)
        await soon(lambda: disk.persisted == [A, B])


async def test_later_layers_are_persisted_after_a_notice() -> None:
    disk, time = Disk(), ManualClock()
    async with persisting(disk, time, []) as persister:
        persister.idle.set()
        disk.pending.append(A)
        persister.notify()
        await soon(lambda: disk.persisted == [A])
        disk.pending.append(B)
        persister.notify()
        await soon(lambda: disk.persisted == [A, B])


async def test_a_layer_that_the_disk_cannot_write_is_reported_and_the_next_one_follows() -> None:
    disk, time = Disk(A, B), ManualClock()
    disk.broken = {A}
    damage: list[Digest] = []
    async with persisting(disk, time, damage) as persister:
        persister.idle.set()
        await soon(lambda: disk.persisted == [B])
        assert damage == [A]


async def test_a_full_disk_is_tried_again_twice_a_minute() -> None:
    disk, time = Disk(A), ManualClock()
    disk.full = True
    async with persisting(disk, time, []) as persister:
        persister.idle.set()
        for attempt in (1, 2):
            await soon(lambda attempt=attempt: attempt * RETRY_S in time.pending())  # type: ignore[misc]
            time.advance(RETRY_S)
        disk.full = False
        await soon(lambda: 3 * RETRY_S in time.pending() or disk.persisted == [A])
        time.advance(RETRY_S)
        await soon(lambda: disk.persisted == [A])
