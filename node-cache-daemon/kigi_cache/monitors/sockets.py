"""Finds and opens the monitor of a VM from the node, without trust in what its pod has put there. Blocks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from kigi.domain.names import MONITOR_DIRECTORY, MONITOR_SOCKET
from kigi_cache.disks.overlay_files import QEMU_UID

_TARGET = re.compile(r"(/.*/pods/[^/]+)/volumes/kubernetes\.io~csi/[^/]+/mount")
"""Where the kubelet lets the driver mount a volume. Source: Kubernetes pkg/volume/csi/csi_mounter.go, getTargetPath."""
_DIRECTORY = f"volumes/kubernetes.io~empty-dir/{MONITOR_DIRECTORY}"

# openat2(2), <linux/openat2.h>; the number is the same on all architectures.
_OPENAT2 = 437
_NO_MAGIC_LINKS, _NO_SYMLINKS, _BENEATH = 2, 4, 8
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid and gid; see unix(7), SO_PEERCRED."""
_libc = ctypes.CDLL(None, use_errno=True)


class MonitorUnavailable(Exception):
    """Why the VM has no monitor that can be used."""


def pod_directory(target: str) -> Path | None:
    """The kubelet's directory of the pod that has a volume mounted at ``target``; None: it is no pod's target."""
    found = _TARGET.fullmatch(target)
    return Path(found[1]) if found else None


def connect(pod: Path) -> socket.socket:
    """Connect to the monitor of the pod's QEMU. Raises MonitorUnavailable.

    Every name below the pod's volume may be QEMU's, or that of a user who may execute programs in the pod. No link is
    followed, nothing but a socket is opened, and the process behind it must be of QEMU's user.
    """
    try:
        with _descriptor(os.open(pod, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            found = _open_beneath(directory, f"{_DIRECTORY}/{MONITOR_SOCKET}")
        with _descriptor(found):
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                raise MonitorUnavailable("its monitor is not a socket")
            return _connected(f"/proc/self/fd/{found}")
    except FileNotFoundError:
        raise MonitorUnavailable(
            "its QEMU has no monitor: the VM was started by an earlier version of Kigi's hook; restart it"
        ) from None
    except OSError as exc:
        raise MonitorUnavailable(f"its monitor cannot be opened: {exc.strerror}") from exc


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # no wait for a server that accepts nothing
        connection.connect(path)
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != QEMU_UID:
            raise MonitorUnavailable(f"its monitor belongs to user {uid}, who is not QEMU's ({QEMU_UID})")
    except (OSError, MonitorUnavailable):
        connection.close()
        raise
    return connection


def _open_beneath(directory: int, path: str) -> int:
    """A descriptor (O_PATH) of a path below the directory; ELOOP for a link in it. Raises OSError."""
    how = struct.pack("QQQ", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _NO_MAGIC_LINKS | _NO_SYMLINKS | _BENEATH)
    found: int = _libc.syscall(_OPENAT2, directory, os.fsencode(path), how, ctypes.c_size_t(len(how)))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


@contextlib.contextmanager
def _descriptor(opened: int) -> Iterator[int]:
    """Closes it at the end."""
    try:
        yield opened
    finally:
        os.close(opened)
