"""Disk space for frozen copies of overlays and for the layers made of them. Pure; all sizes in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kigi.domain.quantities import format_bytes
from kigi.errors import NoRoom


@dataclass(frozen=True, slots=True)
class CopySpace:
    """Upper bounds of the space that one copy needs until its layer is stored."""

    kept_bytes: int
    """Copy and layer: used until the capture ends."""
    scratch_bytes: int
    """Used while the layer is made. Layers are made one after the other, so they share this space."""


def copy_space(*, allocated_bytes: int, chain_bytes: int, virtual_bytes: int, copied: bool = False) -> CopySpace:
    """Space for an overlay that uses ``allocated_bytes``, above layers of ``chain_bytes`` in all.

    ``copied``: the copy exists already. Otherwise it is counted in full, although file systems may share its blocks
    with the overlay, because the guest can overwrite all of them. The layer is counted as if it had every written byte.
    To make it, the virtual disks of the parent and of the overlay are written out, without their holes.
    """
    parent = min(chain_bytes, virtual_bytes)
    overlay = min(chain_bytes + allocated_bytes, virtual_bytes)
    return CopySpace(allocated_bytes if copied else 2 * allocated_bytes, parent + overlay)


def total_bytes(spaces: Iterable[CopySpace]) -> int:
    """Space that all copies need at the same time."""
    listed = list(spaces)
    return sum(space.kept_bytes for space in listed) + max((space.scratch_bytes for space in listed), default=0)


def shortages(spaces: Iterable[tuple[str, CopySpace]], *, free_bytes: int, min_free_bytes: int) -> dict[str, int]:
    """For each copy that does not fit after the earlier ones that do: the missing bytes.

    Earlier copies take precedence, so that two captures that do not fit together do not block each other.
    """
    available = free_bytes - min_free_bytes
    kept = scratch = 0
    short: dict[str, int] = {}
    for name, space in spaces:
        needed = kept + space.kept_bytes + max(scratch, space.scratch_bytes)
        if needed > available:
            short[name] = needed - available
            continue
        kept, scratch = kept + space.kept_bytes, max(scratch, space.scratch_bytes)
    return short


def shortage_error(short_bytes: int, min_free_bytes: int) -> NoRoom:
    """The error for a copy that lacks ``short_bytes``."""
    return NoRoom(
        f"the copy and its layer need {format_bytes(short_bytes)} more than the disk can give while "
        f"{format_bytes(min_free_bytes)} of it stay free (KIGI_MIN_FREE); it is retried when there is more space"
    )
