"""When overlays are measured, and what is reported of them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kigi_cache.disks.headroom import OverlaySize, SpaceReport
from kigi_cache.disks.overlay_space import CHECK_S, COUNT_CHECKS, WINDOW, OverlaySpace
from kigi_cache.disks.volumes import Volumes
from tests.support.manual_clock import ManualClock

MIB = 2**20
GIB = 2**30
A, B = "kigi.range.office.1.mail1.r3.0a1b2c3d", "kigi.range.office.2.dns1.r1.0a1b2c3d"


class Node:
    """Overlays and free space that a test sets."""

    def __init__(self) -> None:
        self.time = ManualClock()
        self.files = {A: MIB, B: MIB}
        self.free = 10 * GIB
        self.reserved: list[tuple[str, int]] = []
        self.is_ready = True
        self.reports: list[SpaceReport] = []
        self.used = {A: MIB}
        self.space = OverlaySpace(
            cast(Volumes, self),
            self.time.clock,
            lambda: self.free,
            headroom_bytes=256 * MIB,
            warn_below_bytes=GIB,
            on_change=self.reports.append,
            is_ready=lambda: self.is_ready,
        )

    def used_bytes(self) -> dict[str, int]:
        return self.used

    def sizes(self) -> list[OverlaySize]:
        return [OverlaySize(handle, size, 10 * GIB) for handle, size in self.files.items()]

    def reserve(self, handle: str, size_bytes: int) -> None:
        self.reserved.append((handle, size_bytes))


@pytest.fixture
def node() -> Node:
    return Node()


async def test_every_two_seconds_each_overlay_gets_headroom(node: Node) -> None:
    task = asyncio.create_task(node.space.run())
    assert await node.time.next_wake() == CHECK_S
    assert node.reserved == [(A, 256 * MIB), (B, 256 * MIB)]
    node.time.advance(CHECK_S)
    assert await node.time.next_wake() == 2 * CHECK_S
    assert len(node.reserved) == 4
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_measured_before_the_directory_is_recovered(node: Node) -> None:
    node.is_ready = False
    task = asyncio.create_task(node.space.run())
    assert await node.time.next_wake() == CHECK_S
    assert node.reserved == []
    node.is_ready = True
    node.time.advance(CHECK_S)
    assert await node.time.next_wake() == 2 * CHECK_S
    assert len(node.reserved) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_machine_that_fills_the_disk_is_reported_once_and_its_end_too(node: Node) -> None:
    await node.space.check()
    node.free, node.files[A] = MIB, 5 * GIB
    for _ in range(3):
        await node.space.check()
    _, report = node.reports
    assert "machine mail1 of instance office-1 in namespace range (5.0 GiB)" in report.pressure
    assert node.space.report == report
    node.files[B] = 9 * GIB
    await node.space.check()
    assert "machine dns1" in node.reports[2].pressure
    node.free = 10 * GIB
    await node.space.check()
    assert node.reports[3].pressure == ""
    assert [report.filling for report in node.reports] == [(), (A,), (A, B), ()]


async def test_a_machine_stays_paused_while_the_disk_is_full(node: Node) -> None:
    """It does not grow any more, and would fill the disk if it ran."""
    await node.space.check()
    node.free, node.files[A] = MIB, 5 * GIB
    for _ in range(2 * WINDOW):
        await node.space.check()
    assert node.reports[-1].filling == node.space.report.filling == (A,)
    del node.files[A]
    await node.space.check()
    assert node.space.report.filling == (), "it was reset, or stopped"


async def test_the_use_of_each_namespace_is_counted_once_in_a_minute_and_rounded_up(node: Node) -> None:
    node.used = {A: 65 * MIB, "kigi.b.x.1.m0.r1.u": 0}
    await node.space.check()
    assert node.space.report.used_bytes == {"b": 0, "range": 128 * MIB}
    assert node.space.report.written_bytes == {A: 80 * MIB, "kigi.b.x.1.m0.r1.u": 0}
    node.used = {A: 130 * MIB}
    for _ in range(COUNT_CHECKS - 1):
        await node.space.check()
    assert node.space.report.used_bytes["range"] == 128 * MIB
    await node.space.check()
    assert [report.used_bytes["range"] // MIB for report in node.reports] == [128, 192]


async def test_growth_is_forgotten_after_two_minutes_and_with_the_overlay(node: Node) -> None:
    await node.space.check()
    node.free, node.files[A] = MIB, 5 * GIB
    await node.space.check()
    assert node.space.report.pressure
    for _ in range(WINDOW):
        await node.space.check()
    assert node.space.report.pressure == ""
    del node.files[A]
    await node.space.check()
    node.files[A] = 9 * GIB
    await node.space.check()
    assert node.space.report.pressure == "", "it was mounted with that size"
