"""Mounts of this mount namespace: the table, and the three calls that change it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kigi.errors import MountFailed

MOUNTINFO = Path("/proc/self/mountinfo")

# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
UMOUNT_NOFOLLOW = 8

_OCTAL = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    device: str
    """Major and minor number, ``8:1``."""
    root: str
    """Directory of the file system that is the root of this mount."""
    point: str
    """Where it is mounted."""
    options: frozenset[str]
    """Of this mount, not of the file system: ``ro``, ``nosuid``, ..."""


def parse_mountinfo(text: str) -> list[Mount]:
    """The lines in the kernel's order: of two mounts at one point, the later hides the earlier."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 6:
            device, root, point, options = fields[2:6]
            mounts.append(Mount(device, _plain(root), _plain(point), frozenset(options.split(","))))
    return mounts


def list_mounts() -> list[Mount]:
    """The mounts that this process sees. Cost: one read of a file, microseconds per mount."""
    return parse_mountinfo(MOUNTINFO.read_text(errors="surrogateescape"))


def source_of(mounts: Iterable[Mount], directory: str) -> tuple[str, str]:
    """Device and root that a bind mount of ``directory`` (absolute, without symbolic links) would show.

    Source: proc_pid_mountinfo(5); the last of the longest mount points above the directory is the one that is seen.
    """
    best: Mount | None = None
    for mount in mounts:
        inside = mount.point == "/" or directory == mount.point or directory.startswith(mount.point + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        raise MountFailed(f"no mount holds {directory}")
    below = os.path.relpath(directory, best.point)
    return best.device, os.path.normpath(os.path.join(best.root, below))


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show ``source`` at ``target``, which exists, without set-uid programs, devices or programs at all.

    The kernel ignores the flags of a bind mount itself; the second call sets them.
    """
    _mount(source, target, MS_BIND)
    limits = MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_RDONLY if read_only else 0)
    _mount(None, target, MS_REMOUNT | MS_BIND | limits)


def unmount(target: str) -> None:
    """Take away the topmost mount at ``target``; MountFailed when it is busy."""
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW) != 0:
        raise _failure("unmount", target)


def _mount(source: str | None, target: str, flags: int) -> None:
    encoded = None if source is None else os.fsencode(source)
    if _libc.mount(encoded, os.fsencode(target), None, ctypes.c_ulong(flags), None) != 0:
        raise _failure("mount", target)


def _failure(verb: str, target: str) -> MountFailed:
    return MountFailed(f"cannot {verb} {target}: {os.strerror(ctypes.get_errno())}")


def _plain(text: str) -> str:
    """Blank, tab, newline and backslash stand in mountinfo as three octal digits."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
