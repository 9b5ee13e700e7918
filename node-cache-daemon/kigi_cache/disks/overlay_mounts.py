"""Mounts of overlays at the targets of pods: the overlay writable, and its layers over ``chain/`` in it.

The layers are a file system of their own that never changes them (``mounts.mount_layers``). A pod that gets the volume
without the mounts inside it, as with ``volumeMounts[].subPath``, has an empty ``chain/``.

All functions block. ``directory`` is the directory of an overlay, ``target`` the path that the kubelet asks for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kigi.errors import VolumeInUse
from kigi_cache.disks import mounts
from kigi_cache.disks.mounts import Mount
from kigi_cache.disks.overlay_files import CHAIN, DISK, MOUNT


def mounted_handles(root: Path, handles: Iterable[str]) -> set[str]:
    """Those of the overlays below ``root`` that are mounted. Cost: one read of the mount table."""
    table = mounts.list_mounts()
    device, source = mounts.source_of(table, str(root))
    inside = [
        m.root.removeprefix(source + "/") for m in table if m.device == device and m.root.startswith(source + "/")
    ]
    used = {name.split("/", 1)[0] for name in inside if _is_shown(name.partition("/")[2])}
    return used.intersection(handles)


def mount_points(directory: Path) -> list[str]:
    """Where the overlay, or a part of it, is mounted; not its layers."""
    table = mounts.list_mounts()
    device, source = mounts.source_of(table, str(directory))
    own = [mount for mount in table if mount.device == device and f"{mount.root}/".startswith(f"{source}/")]
    return [mount.point for mount in own if _is_shown(mount.root[len(source) + 1 :])]


def is_mounted_at(directory: Path, target: str) -> bool:
    """Whether the overlay is mounted at ``target``."""
    return real_target(target) in mount_points(directory)


def attach(directory: Path, target: str, prepare: Callable[[], None], empty: Path, labels: Path) -> None:
    """Mount the overlay and its layers at ``target``. If both are mounted there, nothing happens.

    ``prepare`` is called before the overlay is mounted, and never while it is. ``empty`` is an empty directory, and in
    ``labels`` each call makes one for itself. A crash between the two mounts leaves an overlay without its layers,
    which the next call replaces. Raises VolumeInUse if the overlay is mounted elsewhere, or
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
    prepare()
    os.makedirs(place, mode=0o750, exist_ok=True)
    if os.path.islink(place):
        raise VolumeInUse(f"{target} is a symbolic link")
    mounts.bind(str(directory / MOUNT), place, read_only=False)
    scratch = tempfile.mkdtemp(dir=labels)
    try:
        with _directory(os.path.join(place, CHAIN)) as chain:
            mounts.mount_layers(str(directory / CHAIN), str(empty), scratch, chain)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # what is left, ``clear`` removes at the next start


def detach(target: str) -> None:
    """Unmount everything at and below ``target``, and remove the directory; nothing mounted there is success."""
    place = real_target(target)
    _unmount_all(place)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(place)


def clear(labels: Path) -> None:
    """Remove what a crash during ``attach`` left in this directory, and create it."""
    labels.mkdir(mode=0o700, parents=True, exist_ok=True)
    _unmount_all(os.path.realpath(labels))
    for entry in list(os.scandir(labels)):
        shutil.rmtree(entry.path)


def _unmount_all(place: str) -> None:
    inside = [m for m in mounts.list_mounts() if m.point == place or m.point.startswith(place + "/")]
    for mount in sorted(inside, key=lambda mount: len(mount.point), reverse=True):
        mounts.unmount(mount.point)


def real_target(target: str) -> str:
    """The target as the mount table names it: without symbolic links, but for its last component."""
    parent, name = os.path.split(os.path.normpath(target))
    return os.path.join(os.path.realpath(parent), name)


def _is_shown(name: str) -> bool:
    """Whether pods may see a path below an overlay's directory. ``""`` and the disk: in the earlier form."""
    return name in ("", DISK) or name.split("/", 1)[0] == MOUNT


def _is_complete(directory: Path, place: str, target: str) -> bool:
    """Whether overlay and layers are mounted at ``place``. Raises VolumeInUse if anything else is.

    An overlay that an earlier version has mounted is complete, too: its VM runs.
    """
    table = mounts.list_mounts()
    device, source = mounts.source_of(table, str(directory))
    overlay = {(device, os.path.join(source, MOUNT)), (device, source)}
    chain = (device, os.path.join(source, CHAIN))
    whole = layers = 0
    for mount in table:
        if mount.point == place and (mount.device, mount.root) in overlay:
            whole += "ro" not in mount.options
        elif mount.point == os.path.join(place, CHAIN) and _layers_of(mount) == str(directory / CHAIN):
            layers += 1
        elif mount.point == os.path.join(place, CHAIN) and (mount.device, mount.root) == chain:
            layers += "ro" in mount.options
        elif mount.point in (place, os.path.join(place, CHAIN)):
            raise VolumeInUse(f"something else is mounted at {target}")
    return (whole, layers) == (1, 1)


def _layers_of(mount: Mount) -> str | None:
    """Directory of links that ``mount_layers`` shows in this mount."""
    return mount.source if mount.kind == mounts.OVERLAY else None


@contextlib.contextmanager
def _directory(path: str) -> Iterator[str]:
    """A path of this directory that stays the same whatever its name leads to; a link is refused (OSError)."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
