"""File-system calls of this process that fail on purpose: those below one directory, at chosen calls."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BY_PATH = (
    *("stat", "lstat", "listdir", "scandir", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link"),
    *("chmod", "chown", "statvfs", "open", "utime", "truncate", "readlink"),
)
BY_DESCRIPTOR = ("fstat", "fchmod", "fsync", "pread", "lseek", "ftruncate", "copy_file_range")
_NAMES = re.compile(r"[0-9a-f]{16,}")

Call = tuple[str, str]
"""Name of the call and path below the root, in which hexadecimal names are replaced by ``#``."""


@dataclass
class Faults:
    """Counts calls, and makes one kind of them fail: its ``nth``, or from then on every one (``lasting``)."""

    root: str
    call: Call | None = None
    nth: int = 0
    number: int = 0
    lasting: bool = False
    seen: Counter[Call] = field(default_factory=Counter)
    injected: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hit(self, name: str, path: Any) -> None:
        """Record one call; raises OSError if it is to fail."""
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else _path_of(path)
        if not text.startswith(self.root):
            return
        call = (name, _NAMES.sub("#", text[len(self.root) :]))
        with self._lock:
            count = self.seen[call]
            self.seen[call] += 1
            fails = call == self.call and (count == self.nth or (self.lasting and count > self.nth))
            self.injected += fails
        if fails:
            raise OSError(self.number, os.strerror(self.number), text)

    def heal(self) -> None:
        """No call fails any more."""
        self.call = None


def _path_of(descriptor: object) -> str:
    try:
        return REAL["readlink"](f"/proc/self/fd/{descriptor}")  # type: ignore[no-any-return]
    except OSError:
        return ""


REAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*BY_PATH, *BY_DESCRIPTOR)}
_open = io.open


class _File(io.FileIO):
    """An unbuffered file whose reads and writes may fail."""

    def __init__(self, faults: Faults, file: Any, mode: str, closefd: bool) -> None:
        super().__init__(file, mode, closefd)
        self._faults = faults

    def write(self, data: Any) -> int:
        self._faults.hit("write", self.fileno())
        return super().write(data) or 0

    def readinto(self, buffer: Any) -> int | None:  # type: ignore[override]
        self._faults.hit("read", self.fileno())
        return super().readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        self._faults.hit("read", self.fileno())
        return super().read(-1 if size is None else size) or b""

    def readall(self) -> bytes:
        self._faults.hit("read", self.fileno())
        return super().readall() or b""


@contextlib.contextmanager
def faulty_files(root: Path) -> Iterator[Faults]:
    """Within the block, all calls below ``root`` pass the yielded Faults."""
    faults = Faults(os.path.realpath(root))

    def wrapped(name: str) -> Callable[..., Any]:
        real = REAL[name]

        def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            place = kwargs.get("dir_fd")
            faults.hit(name, path if place is None else os.path.join(_path_of(place), os.fsdecode(path)))
            return real(path, *args, **kwargs)

        return call

    def faulty_open(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        text = _path_of(file) if isinstance(file, int) else os.fsdecode(file)
        if not text.startswith(faults.root):
            return _open(file, mode, buffering, *args, **kwargs)
        faults.hit("open file", text)
        raw = _File(faults, file, mode.replace("b", "").replace("t", ""), kwargs.get("closefd", True))
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        buffered = kind(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=kwargs.get("encoding") or "utf-8")

    try:
        for name in REAL:
            setattr(os, name, wrapped(name))
        io.open = builtins.open = faulty_open  # type: ignore[assignment]
        yield faults
    finally:
        io.open = builtins.open = _open
        for name, real in REAL.items():
            setattr(os, name, real)
