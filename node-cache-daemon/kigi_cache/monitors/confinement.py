"""Takes all rights from a process that reads what a VM's QEMU sends. Blocks."""

from __future__ import annotations

import ctypes
import os
import resource

MONITOR_UID = MONITOR_GID = 65531
"""A user that owns no file. The publisher's (65532) owns results of captures, and QEMU's (107) overlays."""
MEMORY_BYTES = 256 * 2**20
"""Data of the process; it needs 20 MiB."""
CPU_S = 20
"""Processor time of the process in its life. A barrier of ten VMs needs 0.2 s."""
MAX_FILES = 256
"""Descriptors: one for each VM of a capture (128), and some of Python's own."""

# <linux/sched.h>, <linux/prctl.h>
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_libc = ctypes.CDLL(None, use_errno=True)


def confine(root: str) -> None:
    """No rights from now on: an empty directory ``root`` as file system, no network, no new processes, little memory.

    Only for a process of its own, with one thread, that has imported all that it needs. Raises OSError.
    """
    _check(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC))
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(MONITOR_GID, MONITOR_GID, MONITOR_GID)
    os.setresuid(MONITOR_UID, MONITOR_UID, MONITOR_UID)  # ends all capabilities, too
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))  # no process of the same user reads its memory
    for kind, most in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
