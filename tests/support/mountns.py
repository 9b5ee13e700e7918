"""A mount namespace for the calling thread and those it starts, so that no mount of a test outlives it."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_mounts() -> Iterator[None]:
    """Everything mounted inside is gone at the end. Needs root; threads started inside must have ended by then."""
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _check(_libc.unshare(CLONE_NEWNS))
        _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
        yield
    finally:
        here = os.getcwd()
        deadline = time.monotonic() + 10
        # refused as long as another thread shares this one's directory: a joined thread ends a moment later
        while _libc.setns(before, CLONE_NEWNS) != 0:
            if time.monotonic() > deadline:
                raise OSError(ctypes.get_errno(), "a thread that the test started still runs")
            time.sleep(0.005)
        os.close(before)
        os.chdir(here)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
