"""A mount namespace for the calling thread and its child threads, so that all mounts of a test end with it."""

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
    """Mounts of this context disappear at its end. Needs root; threads started inside must have ended."""
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _check(_libc.unshare(CLONE_NEWNS))
        _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
        yield
    finally:
        here = os.getcwd()
        deadline = time.monotonic() + 10
        # Refused while another thread shares this thread's directory; a joined thread ends slightly later.
        while _libc.setns(before, CLONE_NEWNS) != 0:
            if time.monotonic() > deadline:
                raise OSError(ctypes.get_errno(), "a thread that the test started still runs")
            time.sleep(0.005)
        os.close(before)
        os.chdir(here)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
