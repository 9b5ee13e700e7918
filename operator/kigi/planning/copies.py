"""Frozen copies of overlays: what keeps each from being made, and from becoming a layer; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kigi.api.capture import CapturedDisk
from kigi.api.node_cache import CaptureReport
from kigi.errors import CacheSilent, CaptureFailed, KigiError, NoRoom, NotSettled, PublisherSilent

NodeLife = Literal["Alive", "Silent", "Gone"]
"""Alive: its cache daemon reports. Silent: it does not, and may again. Gone: there is no Node object, so no disk."""
KEPT = ("Stored", "Unchanged")
"""States of a disk that needs its copy no more."""
_ERRORS: Mapping[str, type[KigiError]] = {
    kind.reason: kind for kind in (CacheSilent, NoRoom, NotSettled, PublisherSilent)
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why one disk does not go on: ``reason`` in one CamelCase word, ``message`` for a person."""

    reason: str
    message: str


def life_of(*, node_exists: bool, cache_alive: bool) -> NodeLife:
    """``cache_alive``: the NodeCache's heartbeat is as young as placement wants it."""
    if not node_exists:
        return "Gone"
    return "Alive" if cache_alive else "Silent"


def trouble_of(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Trouble | None:
    """What keeps the disk's copy from becoming a layer; None: nothing, or it is one already."""
    if disk.state in KEPT:
        return None
    if life == "Gone":
        return Trouble("CopyLost", f"node {disk.node} is gone, and with it the copy that was not stored yet")
    if life == "Silent":
        return Trouble(
            "CacheSilent",
            f"the cache daemon of node {disk.node} does not report; it goes on by itself when it does, or fails when "
            "the Node object is deleted",
        )
    if report is not None and report.state == "Lost":
        return Trouble("CopyLost", f"the copy was lost on node {disk.node} before it was stored")
    if report is not None and report.reason is not None:
        return Trouble(report.reason, report.message or "")
    return None


def obstacle_of(disk: CapturedDisk, report: CaptureReport | None, life: NodeLife) -> Trouble | None:
    """What speaks against pausing VMs for a copy of the disk; None: nothing that is known."""
    if life == "Gone":
        return Trouble("NotSettled", f"node {disk.node} is gone; its machines are placed anew")
    if life == "Silent":
        return Trouble("CacheSilent", f"the cache daemon of node {disk.node} does not report")
    if report is not None and report.state == "Refused":
        return Trouble(report.reason or CaptureFailed.reason, report.message or "")
    return None


def of_reason(troubles: Iterable[tuple[CapturedDisk, Trouble]], *reasons: str) -> list[tuple[CapturedDisk, Trouble]]:
    """Those with one of these reasons."""
    return [(disk, trouble) for disk, trouble in troubles if trouble.reason in reasons]


def first_error(troubles: Iterable[tuple[CapturedDisk, Trouble]]) -> KigiError | None:
    """The first one as an error that names disk and node; None: there is none. All of them end by themselves."""
    for disk, trouble in troubles:
        kind = _ERRORS.get(trouble.reason, CaptureFailed)
        return kind(f"disk {disk.name} on node {disk.node}: {trouble.message}")
    return None
