"""Obstacles of a capture: why a disk cannot be copied, or its copy cannot become a layer; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kigi.api.capture import CapturedDisk
from kigi.api.node_cache import CaptureReport
from kigi.errors import CacheSilent, CaptureFailed, KigiError, NoRoom, NotSettled, PublisherSilent

NodeLife = Literal["Alive", "Silent", "Gone"]
"""Alive: the cache daemon reports. Silent: it does not, and may again. Gone: the Node object and its disk are gone."""
KEPT = ("Stored", "Unchanged")
"""States of a disk that does not need its copy any more."""
_ERRORS: Mapping[str, type[KigiError]] = {
    kind.reason: kind for kind in (CacheSilent, NoRoom, NotSettled, PublisherSilent)
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why one disk makes no progress: ``reason`` is one CamelCase word, ``message`` is for a person."""

    reason: str
    message: str


DiskObstacle = tuple[CapturedDisk, Obstacle]


def life_of(*, node_exists: bool, cache_alive: bool) -> NodeLife:
    """``cache_alive``: the heartbeat of the NodeCache is recent enough for placement."""
    if not node_exists:
        return "Gone"
    return "Alive" if cache_alive else "Silent"


def copying_obstacle(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Obstacle | None:
    """Why VMs must not be paused, or stay paused, for a copy of the disk; None: no reason is known."""
    if life == "Gone":
        return Obstacle("NotSettled", f"node {disk.node} is gone; its machines are placed on another node")
    if life == "Silent":
        return Obstacle("CacheSilent", f"the cache daemon of node {disk.node} does not report")
    if report is not None and report.state == "Refused":
        return Obstacle(report.reason or CaptureFailed.reason, report.message or "")
    return None


def storing_obstacle(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Obstacle | None:
    """Why the disk's copy does not become a layer; None: no reason is known, or it is one already."""
    if disk.state in KEPT:
        return None
    if life == "Gone":
        return Obstacle("CopyLost", f"node {disk.node} is gone, and with it the copy that was not stored yet")
    if life == "Silent":
        return Obstacle(
            "CacheSilent",
            f"the cache daemon of node {disk.node} does not report; the capture continues when the daemon reports "
            "again, and fails when the Node object is deleted",
        )
    if report is not None and report.state == "Lost":
        return Obstacle("CopyLost", f"the copy was lost on node {disk.node} before it was stored")
    if report is not None and report.reason is not None:
        return Obstacle(report.reason, report.message or "")
    return None


def with_reason(obstacles: Iterable[DiskObstacle], *reasons: str) -> list[DiskObstacle]:
    """Obstacles with one of the reasons."""
    return [(disk, obstacle) for disk, obstacle in obstacles if obstacle.reason in reasons]


def with_obstacles(disks: Iterable[CapturedDisk], obstacles: Iterable[DiskObstacle]) -> tuple[CapturedDisk, ...]:
    """The disks, each with the reason and the message of its obstacle."""
    found = {disk.id: {"reason": obstacle.reason, "message": obstacle.message} for disk, obstacle in obstacles}
    return tuple(disk.model_copy(update=found.get(disk.id, {})) for disk in disks)


def first_error(obstacles: Iterable[DiskObstacle]) -> KigiError | None:
    """The first obstacle as an error that names disk and node; None: there is none. Each of them can end by itself."""
    for disk, obstacle in obstacles:
        kind = _ERRORS.get(obstacle.reason, CaptureFailed)
        return kind(f"disk {disk.name} on node {disk.node}: {obstacle.message}")
    return None
