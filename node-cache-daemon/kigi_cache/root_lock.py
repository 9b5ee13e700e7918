"""One daemon at a time uses a cache: a second one would delete what the first is making."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from kigi.errors import SpecInvalid
from kigi_cache.clock import Clock

logger = logging.getLogger(__name__)

WAIT_S = 60.0
"""A daemon that is being replaced ends within its grace period of 20 s."""
CHECK_S = 1.0


class CacheInUse(SpecInvalid):
    """Another process uses the cache's directory, which a setting names."""


class RootLock:
    """A lock on the root directory, which the kernel releases when the process ends, however it does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor = -1

    async def acquire(self, clock: Clock) -> None:
        """Take the lock; waits WAIT_S for another process. Raises CacheInUse and OSError."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline_s = clock.monotonic_s() + WAIT_S
        while not _try(descriptor):
            if clock.monotonic_s() >= deadline_s:
                os.close(descriptor)
                raise CacheInUse(f"{self._root} is used by another process; end it, or set another KIGI_CACHE_ROOT")
            logger.warning("waiting for another daemon to end", extra={"root": str(self._root)})
            await clock.sleep(CHECK_S)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up; without it, nothing happens."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
