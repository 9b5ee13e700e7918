"""What refuses a copy before its VM is paused, and when a publisher counts as dead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from kigi.errors import (
    ChainTooDeep,
    KigiError,
    NoRoom,
    OverlayRejected,
    PublisherSilent,
    RepositoryUnknown,
    VolumeUnknown,
)
from kigi_cache.captures.checks import SILENT_AFTER_S, CopyChecks, is_silent
from kigi_cache.captures.files import HEARTBEAT, HEARTBEAT_S, CopyFiles
from kigi_cache.disks.volumes import Volumes
from tests.support.copies import Overlays, order
from tests.support.manual_clock import EPOCH_S, ManualClock


class Node:
    """Checks on a node with as many free bytes as ``free``, ``idle`` of which more would come by eviction."""

    def __init__(self, root: Path) -> None:
        self.files = CopyFiles(root)
        self.files.recover()
        self.overlays, self.time = Overlays(), ManualClock()
        self.free, self.idle = 10_000, 0
        self.evicted: list[int] = []
        self.max_depth: Callable[[str], int] = lambda repository: 64
        self.checks = CopyChecks(
            self.files,
            cast(Volumes, self.overlays),
            clock=self.time.clock,
            free_bytes=lambda: self.free,
            min_free_bytes=50,
            max_depth=lambda repository: self.max_depth(repository),
            free_space=self.evict,
        )
        self.set_heartbeat()

    def set_heartbeat(self, age_s: float = 0.0) -> None:
        path = self.files.root / HEARTBEAT
        path.touch()
        os.utime(path, (EPOCH_S + self.time.now_s - age_s,) * 2)

    async def evict(self, size_bytes: int) -> None:
        self.evicted.append(size_bytes)
        self.free += self.idle

    async def refusal(self) -> KigiError | None:
        return (await self.checks.check([order(action="Check")]))["c1"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_copy_that_fits_is_possible_without_evicting_anything(node: Node) -> None:
    assert await node.refusal() is None
    assert node.evicted == []


async def test_a_vm_that_never_started_has_nothing_to_copy(node: Node) -> None:
    node.overlays.error = VolumeUnknown("no overlay")
    assert await node.refusal() is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OverlayRejected("forged"), OverlayRejected), (OSError(5, "Input/output error"), KigiError)],
    ids=["forged", "unreadable"],
)
async def test_an_overlay_that_cannot_be_measured_is_refused(
    node: Node, error: Exception, kind: type[KigiError]
) -> None:
    node.overlays.error = error
    found = await node.refusal()
    assert isinstance(found, kind)
    assert str(error.args[-1]) in str(found)


async def test_a_chain_that_the_repository_takes_no_layer_above_is_refused(node: Node) -> None:
    node.overlays.layers = 3
    node.max_depth = lambda repository: {"default": 3}[repository]
    found = await node.refusal()
    assert isinstance(found, ChainTooDeep)
    assert "LayerRepository default: spec.limits.maxDepth" in str(found)
    node.overlays.layers = 2
    assert await node.refusal() is None


async def test_an_unknown_repository_is_refused_by_name(node: Node) -> None:
    def unknown(repository: str) -> int:
        raise RepositoryUnknown(repository)

    node.max_depth = unknown
    assert isinstance(await node.refusal(), RepositoryUnknown)


async def test_a_dead_publisher_refuses_a_copy(node: Node) -> None:
    node.set_heartbeat(SILENT_AFTER_S + 1)
    assert isinstance(await node.refusal(), PublisherSilent)
    node.set_heartbeat()
    assert await node.refusal() is None


@pytest.mark.parametrize(("idle", "possible"), [(1000, True), (0, False)])
async def test_layers_that_no_disk_needs_are_evicted_for_a_copy(node: Node, idle: int, possible: bool) -> None:
    node.free, node.idle = 100, idle
    found = await node.refusal()
    assert found is None if possible else isinstance(found, NoRoom)
    assert node.evicted == [80 + 100 + 140]


async def test_orders_are_checked_together(node: Node) -> None:
    node.free = 50 + 2 * 80 + 240 - 1
    refusals = await node.checks.check([order(id_, action="Check") for id_ in ("c1", "c2")])
    assert refusals["c1"] is None
    assert isinstance(refusals["c2"], NoRoom)


@pytest.mark.parametrize(
    ("seen", "since", "silent"),
    [
        (None, 0.0, True),
        (1000.0, 0.0, False),
        (1000.0 - SILENT_AFTER_S, 0.0, False),
        (1000.0 - SILENT_AFTER_S - 1, 0.0, True),
        (None, 990.0, False),
        (4600.0, 0.0, False),
    ],
    ids=["never seen", "seen now", "seen lately", "seen long ago", "only just needed", "the clock was set back"],
)
def test_a_publisher_is_silent_when_a_copy_waits_for_it_in_vain(seen: float | None, since: float, silent: bool) -> None:
    assert is_silent(seen, since, 1000.0) == silent


def test_a_clock_that_is_set_forward_lets_the_publisher_seem_silent_until_its_next_heartbeat() -> None:
    assert is_silent(1000.0, 0.0, 4600.0)
    assert HEARTBEAT_S * 4 < SILENT_AFTER_S
