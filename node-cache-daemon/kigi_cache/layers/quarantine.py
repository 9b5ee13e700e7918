"""Files that were found not to be what their names claim; the newest few are kept for people to examine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from kigi.domain.layers import Digest, digest_hex
from kigi_cache.filesystem import remove

MAX_KEPT = 4


class Quarantine:
    """A directory of files named ``<hex>.<n>``. Thread-safe; every method blocks."""

    def __init__(self, directory: Path, step: Callable[[str], None] = lambda name: None) -> None:
        """``step`` is called with the name of each change before it is made."""
        self.directory = directory
        self._step = step
        self._lock = threading.Lock()

    def take(self, path: Path, digest: Digest) -> None:
        """Move a file here, in one step, and delete the oldest files beyond MAX_KEPT. A missing file is success."""
        with self._lock:  # two calls would choose the same number, or delete the same oldest file
            number = 0
            while os.path.lexists(target := self.directory / f"{digest_hex(digest)}.{number}"):
                number += 1
            self._step("quarantine")
            try:
                os.rename(path, target)
            except FileNotFoundError:
                return
            kept = sorted(self.directory.iterdir(), key=lambda entry: entry.lstat().st_ctime_ns)
            for oldest in kept[:-MAX_KEPT]:
                remove(oldest)

    def empty(self) -> None:
        """Delete every file. A missing directory is success."""
        with self._lock:
            try:
                entries = list(self.directory.iterdir())
            except FileNotFoundError:
                return
            for entry in entries:
                remove(entry)
