"""Calls of the file system that several parts of the daemon need. All of them block."""

from __future__ import annotations

import os
from pathlib import Path


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


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that holds ``path``, without the blocks reserved for root."""
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def capacity_bytes(path: Path) -> int:
    """Size of the file system that holds ``path``, in bytes."""
    figures = os.statvfs(path)
    return figures.f_blocks * figures.f_frsize


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory with its content; a missing one is success."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            remove(entry)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
