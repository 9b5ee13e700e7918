"""fs-verity: the kernel refuses every write to a sealed file, and checks each block of it when it is read.

Source: Linux Documentation/filesystems/fsverity.rst. ext4, btrfs and f2fs have it where it was turned on (ext4:
``tune2fs -O verity``). Elsewhere layers are protected by how they are mounted, and checked by their fingerprints.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

logger = logging.getLogger(__name__)

_ENABLE = 0x40806685
"""FS_IOC_ENABLE_VERITY: _IOW('f', 133, struct fsverity_enable_arg). Source: Linux include/uapi/linux/fsverity.h."""
_ARGUMENT = struct.pack("<IIIIQIIQ88x", 1, 1, 4096, 0, 0, 0, 0, 0)
"""Version 1, SHA-256, blocks of 4 KiB, no salt, no signature."""
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL}


def seal(path: Path) -> bool:
    """Seal a complete file, if its file system can. Whether it is sealed now. Reads the file once. Blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _ENABLE, _ARGUMENT)
    except OSError as exc:
        if exc.errno == errno.EEXIST:
            return True
        if exc.errno not in _UNSUPPORTED:
            logger.warning("layer not sealed", extra={"file": path.name, "cause": exc.strerror})
        return False
    finally:
        os.close(descriptor)
    return True
