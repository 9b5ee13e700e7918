"""Obstacles of a capture: why a disk cannot be copied, or its copy cannot become a layer; pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kigi.api.capture import MAX_BLOCKED_DISKS, MAX_BLOCKED_MESSAGE, BlockedDisk, CapturedDisk
from kigi.api.conditions import bounded
from kigi.api.node_cache import CaptureReport
from kigi.domain.node_protocol import CacheSilent, VersionSkew
from kigi.errors import CaptureFailed, KigiError, NoRoom, NotSettled, PublisherSilent
from kigi.planning.capture_progress import KEPT

NodeLife = Literal["Alive", "Silent", "Skewed", "Gone"]
"""Alive: the cache daemon reports. Silent: it does not, and may again. Skewed: it does not understand new
orders. Gone: the Node object and its disk are gone."""
_ERRORS: Mapping[str, type[KigiError]] = {
    kind.reason: kind for kind in (CacheSilent, NoRoom, NotSettled, PublisherSilent, VersionSkew)
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why one disk makes no progress: ``reason`` is one CamelCase word, ``message`` is for a person."""

    reason: str
    message: str


DiskObstacle = tuple[CapturedDisk, Obstacle]

SKEWED = "its cache daemon does not understand the operator's protocol; upgrade operator and daemons to one version"


def life_of(*, node_exists: bool, cache_alive: bool, has_skew: bool = False) -> NodeLife:
    """``cache_alive``: the daemon was heard lately enough for placement. ``has_skew``: orders are foreign to it."""
    if not node_exists:
        return "Gone"
    if not cache_alive:
        return "Silent"
    return "Skewed" if has_skew else "Alive"


def copying_obstacle(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Obstacle | None:
    """Why VMs must not be paused, or stay paused, for a copy of the disk; None: no reason is known."""
    if life == "Gone":
        return Obstacle("NotSettled", f"node {disk.node_name} is gone; its machines are placed on another node")
    if life == "Silent":
        return Obstacle("CacheSilent", f"the cache daemon of node {disk.node_name} does not report")
    if life == "Skewed":
        return Obstacle("VersionSkew", SKEWED)
    if report is not None and report.state == "Refused":
        return Obstacle(report.reason or CaptureFailed.reason, report.message or "")
    return None


def storing_obstacle(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Obstacle | None:
    """Why the disk's copy does not become a layer; None: no reason is known, or it is one already."""
    if disk.state in KEPT:
        return None
    if life == "Gone":
        return Obstacle("CopyLost", f"node {disk.node_name} is gone, and with it the copy that was not stored yet")
    if life == "Silent":
        return Obstacle(
            "CacheSilent",
            f"the cache daemon of node {disk.node_name} does not report; the capture continues when the daemon reports "
            "again, and fails when the Node object is deleted",
        )
    if report is not None and report.state == "Lost":
        return Obstacle("CopyLost", f"the copy was lost on node {disk.node_name} before it was stored")
    if life == "Skewed":
        return Obstacle("VersionSkew", SKEWED)
    if report is not None and report.reason is not None:
        return Obstacle(report.reason, report.message or "")
    return None


def with_reason(obstacles: Iterable[DiskObstacle], *reasons: str) -> list[DiskObstacle]:
    """Obstacles with one of the reasons."""
    return [(disk, obstacle) for disk, obstacle in obstacles if obstacle.reason in reasons]


def blocked_disks(obstacles: Iterable[DiskObstacle]) -> list[BlockedDisk]:
    """The first disks with an obstacle, for the status."""
    return [
        BlockedDisk(
            machine=disk.machine,
            disk=disk.disk,
            node_name=disk.node_name,
            reason=obstacle.reason,
            message=bounded(obstacle.message, MAX_BLOCKED_MESSAGE),
        )
        for disk, obstacle in itertools.islice(obstacles, MAX_BLOCKED_DISKS)
    ]


def first_error(obstacles: Iterable[DiskObstacle]) -> KigiError | None:
    """The first obstacle as an error that names disk and node; None: there is none. Each of them can end by itself."""
    for disk, obstacle in obstacles:
        kind = _ERRORS.get(obstacle.reason, CaptureFailed)
        return kind(f"disk {disk.label} on node {disk.node_name}: {obstacle.message}")
    return None
