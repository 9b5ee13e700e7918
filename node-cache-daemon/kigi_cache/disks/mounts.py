"""The mount table of this mount namespace, and the calls that change it. All functions block."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kigi.errors import MountFailed

MOUNTINFO = Path("/proc/self/mountinfo")

# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
_LIMITS = MS_NOSUID | MS_NODEV | MS_NOEXEC
UMOUNT_NOFOLLOW = 8
OVERLAY = "overlay"
"""Type of an overlayfs mount in the mount table."""
_LABELS = "kigi-labels"
_MAX_LABELLED = 256
"""Files and directories with their own label: MAX_DEPTH layers, and those of overlayfs itself."""

logger = logging.getLogger(__name__)
_OCTAL = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    device: str
    """Major and minor number, ``8:1``."""
    root: str
    """Directory within the file system that this mount shows."""
    point: str
    """Where it is mounted."""
    options: frozenset[str]
    """Options of this mount, not of the file system: ``ro``, ``nosuid``, ..."""
    kind: str = ""
    """Type of the file system, ``ext4``."""
    source: str = ""
    """What was mounted: a device, or any text for a file system without one."""


def parse_mountinfo(text: str) -> list[Mount]:
    """Mounts in the kernel's order: of two mounts at one point, the later hides the earlier."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 6:
            device, root, point, options = fields[2:6]
            # A variable number of optional fields ends with a dash.
            kind, source = [*fields[fields.index("-") + 1 :], "", ""][:2] if "-" in fields else ("", "")
            flags = frozenset(options.split(","))
            mounts.append(Mount(device, _unescape(root), _unescape(point), flags, kind, _unescape(source)))
    return mounts


def list_mounts() -> list[Mount]:
    """Mounts that this process sees. Cost: one read of a file, microseconds per mount. Raises OSError."""
    return parse_mountinfo(MOUNTINFO.read_text(errors="surrogateescape"))


def source_of(mounts: Iterable[Mount], directory: str) -> tuple[str, str]:
    """Device and root that a bind mount of ``directory`` (absolute, without symbolic links) would have.

    Source: proc_pid_mountinfo(5). Of the mounts above the directory, the one with the longest mount point is visible,
    and of several at that point the last. Raises MountFailed if there is none.
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
    """Bind-mount ``source`` at the existing ``target``, with nosuid, nodev and noexec. Raises MountFailed.

    The kernel ignores these flags in the call that creates a bind mount; a second call sets them.
    """
    _mount(source, target, MS_BIND)
    _mount(None, target, MS_REMOUNT | MS_BIND | _LIMITS | (MS_RDONLY if read_only else 0))


def mount_layers(source: str, empty: str, scratch: str, target: str) -> None:
    """Show the directory ``source`` at ``target``; its files can be labelled there alone. Raises MountFailed.

    It is an overlayfs, which never writes to ``source``, whatever the options of bind mounts made of it. Its upper
    layer is a tmpfs of one page: a new label, owner or mode of a file fits, as ``metacopy`` copies no content, and a
    write does not fit, as it would copy the file. A container runtime labels volumes under SELinux, and ends the pod if
    a label is refused. A kernel without ``metacopy`` gets no upper layer: then the mount refuses labels, too.

    ``empty`` is an empty directory: the kernel requires two lower layers without an upper one. ``scratch`` is an empty
    directory of this call. No path may contain a colon, comma or backslash.
    """
    lower = f"lowerdir={source}:{empty}"
    _mount(_LABELS, scratch, _LIMITS, kind="tmpfs", data=f"size=4096,nr_inodes={_MAX_LABELLED},mode=700")
    try:
        upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
        for directory in (upper, work):
            os.mkdir(directory)
            os.chmod(directory, 0o755)
        try:
            _mount(source, target, _LIMITS, kind=OVERLAY, data=f"{lower},upperdir={upper},workdir={work},metacopy=on")
        except MountFailed as exc:
            logger.warning("layers cannot be labelled", extra={"target": target, "cause": str(exc)})
            _mount(source, target, MS_RDONLY | _LIMITS, kind=OVERLAY, data=lower)
    finally:
        unmount(scratch)  # the overlayfs keeps the tmpfs


def unmount(target: str) -> None:
    """Unmount the topmost mount at ``target``. Raises MountFailed, for example if a file of it is open."""
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW) != 0:
        raise _failure("unmount", target)


def _mount(source: str | None, target: str, flags: int, *, kind: str | None = None, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if _libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) != 0:
        raise _failure("mount", target)


def _failure(verb: str, target: str) -> MountFailed:
    return MountFailed(f"cannot {verb} {target}: {os.strerror(ctypes.get_errno())}")


def _unescape(text: str) -> str:
    """Decode the octal escapes that mountinfo has for blank, tab, newline and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
