"""How much space each running overlay gets in advance, and which one fills the disk; pure.

An overlay grows while its guest writes. Blocks that are allocated behind its end are its own: when the disk is full, a
guest that writes more than its headroom stops with its own VM, and the others go on within theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kigi.domain.names import volume_of_handle
from kigi.domain.quantities import format_bytes

FLOOR_BYTES = 64 * 2**20
"""Free space that headroom leaves for the daemon's own files."""
METADATA_BYTES = 16 * 2**20
LEAST_WRITTEN_BYTES = 2**20
WRITING_BYTES = 64 * 2**20
"""Growth over the last two minutes from which a machine counts as one that writes much."""
NAMED = 3


@dataclass(frozen=True, slots=True)
class OverlaySize:
    """One mounted overlay."""

    handle: str
    size_bytes: int
    """Of its file."""
    virtual_bytes: int
    """Of its disk."""
    grown_bytes: int = 0
    """Growth of the file over the last two minutes."""

    @property
    def limit_bytes(self) -> int:
        """Most that the file can need: every block of the disk, and the tables."""
        return self.virtual_bytes + self.virtual_bytes // 64 + METADATA_BYTES


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """What a node reports of the space of its overlays."""

    pressure: str = ""
    """Which machines fill the disk; empty: none does."""
    filling: tuple[str, ...] = ()
    """Overlays whose machines must stay paused: those that fill the disk, or did since there was space for all."""
    used_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of all overlays, by namespace."""
    written_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each overlay by handle, in the steps of ``written_step``."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """``size_bytes`` to allocate behind the present end of an overlay."""

    handle: str
    size_bytes: int


def written_step(size_bytes: int) -> int:
    """Bytes of an overlay, rounded up by at most a quarter, so that a growing one is reported four times per doubling.

    0 below 1 MiB: an overlay has tables before its guest writes anything.
    """
    if size_bytes < LEAST_WRITTEN_BYTES:
        return 0
    step = 1 << (size_bytes.bit_length() - 3)
    return -(-size_bytes // step) * step


def plan_headroom(overlays: Iterable[OverlaySize], *, free_bytes: int, headroom_bytes: int) -> list[Reservation]:
    """What to allocate, the overlays with the least growth first: a guest that writes much gets what others leave."""
    left = free_bytes - FLOOR_BYTES
    planned: list[Reservation] = []
    for overlay in sorted(overlays, key=lambda each: (each.grown_bytes, each.handle)):
        wanted = min(headroom_bytes, overlay.limit_bytes - overlay.size_bytes)
        if 0 < wanted <= left:
            planned.append(Reservation(overlay.handle, wanted))
            left -= wanted
    return planned


def overlays_to_stop(overlays: Sequence[OverlaySize], *, free_bytes: int, warn_below_bytes: int) -> list[str]:
    """Handles of overlays whose machines fill the disk, largest first; none while ``warn_below_bytes`` are free.

    Such a machine writes much, and has more than half of what each would have if all had the same: a machine that has
    little is not stopped because others have left little.
    """
    if free_bytes >= warn_below_bytes:
        return []
    fair_bytes = (sum(each.size_bytes for each in overlays) + free_bytes) // max(1, len(overlays))
    stopped = [each for each in overlays if each.grown_bytes >= WRITING_BYTES and each.size_bytes > fair_bytes // 2]
    return [each.handle for each in sorted(stopped, key=lambda each: (-each.size_bytes, each.handle))]


def describe_growth(overlays: Sequence[OverlaySize], *, free_bytes: int, warn_below_bytes: int) -> str:
    """Which overlays fill the disk; empty while ``warn_below_bytes`` are free or none has grown."""
    grown = sorted((each for each in overlays if each.grown_bytes > 0), key=lambda each: -each.grown_bytes)
    if free_bytes >= warn_below_bytes or not grown:
        return ""
    names = ", ".join(f"{machine_of(each.handle)} ({format_bytes(each.grown_bytes)})" for each in grown[:NAMED])
    more = f" and {len(grown) - NAMED} more" if len(grown) > NAMED else ""
    return (
        f"{format_bytes(free_bytes)} are free on the node's disk, and these machines write to it: {names}{more}; reset "
        "or stop the first one, or give the node a larger disk. Kigi pauses those that have the most"
    )


def machine_of(handle: str) -> str:
    """Namespace, deployment, instance and machine of an overlay's handle; the handle, if it has another form."""
    if volume_of_handle(handle) is None:
        return handle
    _, namespace, deployment, instance, machine, *_ = handle.split(".")
    return f"machine {machine} of instance {deployment}-{instance} in namespace {namespace}"
