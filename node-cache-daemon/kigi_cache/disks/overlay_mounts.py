"""Mounts of overlays at the targets of pods: the overlay's directory writable, its chain read-only inside.

All functions block. ``directory`` is the directory of an overlay, ``target`` the path that the kubelet asks for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from kigi.errors import VolumeInUse
from kigi_cache.disks import mounts
from kigi_cache.disks.mounts import Mount
from kigi_cache.disks.overlay_files import CHAIN


def mounted_handles(root: Path, handles: Iterable[str]) -> set[str]:
    """Those of the overlays below ``root`` that are mounted. Cost: one read of the mount table."""
    table = mounts.list_mounts()
    device, source = mounts.source_of(table, str(root))
    sources = {mount.root for mount in table if mount.device == device}
    return {handle for handle in handles if os.path.join(source, handle) in sources}


def mount_points(directory: Path) -> list[str]:
    """Where the overlay (not its chain) is mounted."""
    table = mounts.list_mounts()
    source = mounts.source_of(table, str(directory))
    return [mount.point for mount in table if (mount.device, mount.root) == source]


def is_mounted_at(directory: Path, target: str) -> bool:
    """Whether the overlay is mounted at ``target``."""
    return real_target(target) in mount_points(directory)


def attach(directory: Path, target: str, relink: Callable[[], None]) -> None:
    """Mount the overlay and its chain at ``target``. If both are mounted there, nothing happens.

    ``relink`` is called before the overlay is mounted, and never while it is. A crash between the two mounts leaves an
    overlay without its chain, which the next call replaces. Raises VolumeInUse if the overlay is mounted elsewhere, or
    something else at the target.
    """
    place = real_target(target)
    elsewhere = sorted(set(mount_points(directory)) - {place})
    if elsewhere:
        raise VolumeInUse(
            f"overlay {directory.name} is still mounted at {elsewhere[0]}; one VM at a time may write to it"
        )
    if _is_complete(directory, place, target):
        return
    detach(target)
    os.makedirs(place, mode=0o750, exist_ok=True)
    if os.path.islink(place):
        raise VolumeInUse(f"{target} is a symbolic link")
    relink()
    mounts.bind(str(directory), place, read_only=False)
    mounts.bind(str(directory / CHAIN), os.path.join(place, CHAIN), read_only=True)


def detach(target: str) -> None:
    """Unmount everything at and below ``target``, and remove the directory; nothing mounted there is success."""
    place = real_target(target)
    inside = [m for m in mounts.list_mounts() if m.point == place or m.point.startswith(place + "/")]
    for mount in sorted(inside, key=lambda mount: len(mount.point), reverse=True):
        mounts.unmount(mount.point)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(place)


def real_target(target: str) -> str:
    """The target as the mount table names it: without symbolic links, but for its last component."""
    parent, name = os.path.split(os.path.normpath(target))
    return os.path.join(os.path.realpath(parent), name)


def _is_complete(directory: Path, place: str, target: str) -> bool:
    """Whether overlay and chain are mounted at ``place``. Raises VolumeInUse if anything else is."""
    table = mounts.list_mounts()
    overlay, chain = mounts.source_of(table, str(directory)), mounts.source_of(table, str(directory / CHAIN))
    here = [mount for mount in table if mount.point in (place, os.path.join(place, CHAIN))]
    if any(_source(mount) not in (overlay, chain) for mount in here):
        raise VolumeInUse(f"something else is mounted at {target}")
    return sorted((*_source(m), "ro" in m.options) for m in here) == [(*overlay, False), (*chain, True)]


def _source(mount: Mount) -> tuple[str, str]:
    return mount.device, mount.root
