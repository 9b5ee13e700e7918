"""Copies files as fast as the file system can."""

from __future__ import annotations

import errno
import fcntl
import os

_FICLONE = 0x40049409
"""ioctl that shares the blocks of a whole file. Source: Linux include/uapi/linux/fs.h."""
_NO_CLONES = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_CHUNK = 16 * 2**20


def share_blocks(source: int, target: int) -> bool:
    """Let the empty file ``target`` share all blocks of ``source``; False if the file system cannot. Raises OSError."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno not in _NO_CLONES:
            raise
        return False
    return True


def clone_file(source: int, target: int) -> None:
    """Copy the whole file ``source`` into the empty file ``target``; both are descriptors. Blocks. Raises OSError.

    Shares the blocks where the file system can; otherwise copies the data and keeps the holes.
    """
    if share_blocks(source, target):
        return
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            count = os.copy_file_range(source, target, min(_CHUNK, end - start), start, start)
            if count == 0:
                return
            start += count
