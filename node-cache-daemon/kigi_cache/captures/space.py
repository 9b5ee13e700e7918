"""Room on a node's disk for frozen copies of overlays and the layers that are made of them: pure, all in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kigi.domain.quantities import format_bytes
from kigi.errors import NoRoom


@dataclass(frozen=True, slots=True)
class Need:
    """What one overlay takes at most until its layer is stored."""

    kept_bytes: int
    """Of the copy and the layer, for as long as its capture lasts."""
    scratch_bytes: int
    """While its layer is made, which is done for one overlay after the other."""


def need_of(*, allocated_bytes: int, chain_bytes: int, virtual_bytes: int, copied: bool = False) -> Need:
    """Of an overlay that has ``allocated_bytes`` on the disk, above layers of ``chain_bytes`` together.

    A copy is counted as if no block of it was shared, for the guest may overwrite all of them (``copied``: it is there
    already); a layer as if it had all that was written. It is made with both disks, the parent's and the guest's,
    laid out in full but for their holes.
    """
    below = min(chain_bytes, virtual_bytes)
    guests = min(chain_bytes + allocated_bytes, virtual_bytes)
    return Need(allocated_bytes if copied else 2 * allocated_bytes, below + guests)


def together(needs: Iterable[Need]) -> int:
    """Bytes that all of them take at the same time."""
    listed = list(needs)
    return sum(need.kept_bytes for need in listed) + max((need.scratch_bytes for need in listed), default=0)


def shortages(needs: Iterable[tuple[str, Need]], *, free_bytes: int, min_free_bytes: int) -> dict[str, int]:
    """Bytes that each needs and the disk cannot give beside those before it; those that fit are left out.

    The first ones are served first, so that two captures that do not fit together do not wait for each other.
    """
    left = free_bytes - min_free_bytes
    kept = scratch = 0
    short: dict[str, int] = {}
    for name, need in needs:
        asked = kept + need.kept_bytes + max(scratch, need.scratch_bytes)
        if asked > left:
            short[name] = asked - left
            continue
        kept, scratch = kept + need.kept_bytes, max(scratch, need.scratch_bytes)
    return short


def no_room(short_bytes: int, min_free_bytes: int) -> NoRoom:
    """The refusal, for a person."""
    return NoRoom(
        f"the copy and its layer need {format_bytes(short_bytes)} more than the disk has beside the "
        f"{format_bytes(min_free_bytes)} that stay free (KIGI_MIN_FREE); it goes on by itself when there is room"
    )
