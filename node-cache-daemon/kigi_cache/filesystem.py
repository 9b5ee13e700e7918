"""Calls of the file system that several parts of the daemon need. All of them block."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
REMOVE_S = 60.0
"""Timeout of the deletion of directories that are very deep."""


def fsync(path: Path) -> None:
    """Return when the file or directory is on the disk. Raises OSError; ELOOP for a symbolic link.

    A directory's own fsync makes the names in it durable, not the content of its files.
    """
    # O_NONBLOCK: opening a pipe of that name would block until a writer opens it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Replace a file: at every moment, also after a power cut, it has the old content or the new. Raises OSError."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    fsync(path.parent)


def allocate_behind(descriptor: int, size_bytes: int) -> None:
    """Allocate blocks behind the end of an open file, whose size stays. Raises OSError.

    Source: fallocate(2), FALLOC_FL_KEEP_SIZE. What is allocated already costs nothing.
    """
    end = os.fstat(descriptor).st_size
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(1), ctypes.c_int64(end), ctypes.c_int64(size_bytes))
    if _libc.fallocate(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that holds ``path``, without the blocks reserved for root."""
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def capacity_bytes(path: Path) -> int:
    """Size of the file system that holds ``path``, in bytes."""
    figures = os.statvfs(path)
    return figures.f_blocks * figures.f_frsize


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory with its content; a missing one is success. Raises OSError.

    Follows no link, not even one that another process puts in the place of a directory meanwhile.
    """
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        if os.path.lexists(path):  # another process deletes parts of it
            raise
    except RecursionError:  # of rmtree in directories that are a thousand levels deep
        _remove_deep(path)


def _remove_deep(path: Path) -> None:
    """``rm`` opens one directory after the other, so that no depth is too much for it."""
    try:
        command = ["rm", "-rf", "--", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=REMOVE_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise OSError(errno.ETIMEDOUT, f"not deleted within {REMOVE_S:.0f} s", str(path)) from exc
    if done.returncode:
        raise OSError(errno.EIO, f"not deleted: {done.stderr.strip()[:200]}", str(path))
