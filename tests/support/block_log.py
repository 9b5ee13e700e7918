"""A block device whose writes and flushes are recorded, and the states that a power cut may leave of it.

qemu-storage-daemon shows a file through FUSE and logs each write and flush to it (``blklogwrites``, the format of
dm-log-writes); a loop device over that file has the file system. What was written before a completed flush is on
the disk; of what was written since, any subset may be, and a write may be torn between two sectors.
Source: Linux Documentation/admin-guide/device-mapper/log-writes.rst.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kigi_cache.disks.cloning import clone_file

SECTOR = 512
FILE_SYSTEM_BYTES = 640 * 2**20
"""The daemon keeps 256 MiB free."""
MARKS_BYTES = 2**20
"""Behind the file system: each write there is a mark in the log."""
MAKE: dict[str, list[str]] = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-d", f"size={FILE_SYSTEM_BYTES}"],
}
OPTIONS = {"ext4": "noatime", "xfs": "noatime,nouuid"}
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Write:
    """One entry of the log: a write, or a flush without data."""

    offset: int
    data: bytes
    is_flush: bool
    is_forced: bool
    """It was on the disk before it was acknowledged."""


@dataclass
class Log:
    """Everything that was written to a device since its file system was made."""

    kind: str
    base: Path
    """The device before the first write."""
    entries: list[Write] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    """Number of entries before the mark, and number of the mark."""

    def flush_before(self, position: int) -> int:
        """Number of entries up to and with the last flush of the first ``position`` ones."""
        return next((n for n in range(position, 0, -1) if self.entries[n - 1].is_flush), 0)


@dataclass(frozen=True)
class Cut:
    """A state after a power cut: all entries before ``flushed``, and of the later ones those listed."""

    position: int
    """Entries that were written when the power was cut."""
    flushed: int
    kept: tuple[int, ...]
    torn: tuple[int, int] | None = None
    """An entry of which only this many bytes are there."""


def run(*command: str) -> None:
    """Run a command; its output is in the error if it fails."""
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def mounted(image: Path, at: Path, kind: str) -> Iterator[None]:
    """The file system of an image file, within the block."""
    at.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", f"loop,{OPTIONS[kind]}", str(image), str(at))
    try:
        yield
    finally:
        run("umount", str(at))


@contextlib.contextmanager
def recorded(directory: Path, kind: str, log: Log) -> Iterator[Callable[[int], None]]:
    """Mounts a new file system at ``directory/disk``; afterwards ``log`` has all that was written to it.

    Yields a function that writes a mark with a number.
    """
    image, raw_log, shown, at = (directory / name for name in ("image", "log", "shown", "disk"))
    with image.open("wb") as file:
        file.truncate(FILE_SYSTEM_BYTES)
    run(*MAKE[kind], str(image))
    with image.open("rb+") as file:
        file.truncate(FILE_SYSTEM_BYTES + MARKS_BYTES)
    run("fallocate", "--dig-holes", str(image))
    copy(image, log.base)
    with raw_log.open("wb") as file:
        file.truncate(2**32)
    shown.touch()
    at.mkdir()
    device = ""
    server = subprocess.Popen(_server(image, raw_log, shown), stdout=subprocess.DEVNULL)
    try:
        _wait_for(shown, server)
        # Without --direct-io, and with marks by way of the device, the server gets one request at a time: version 7.2
        # has one buffer for all.
        attach = ["losetup", "--show", "-f", str(shown)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
        run("mount", "-t", kind, "-o", OPTIONS[kind], device, str(at))
        descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
        sector = mmap.mmap(-1, mmap.PAGESIZE)  # O_DIRECT needs an aligned buffer

        def mark(number: int) -> None:
            sector[:8] = number.to_bytes(8, "little")
            os.pwrite(descriptor, sector, FILE_SYSTEM_BYTES)

        try:
            yield mark
        finally:
            os.close(descriptor)
            run("umount", str(at))
    except BaseException:
        run("umount", "--lazy", str(at))
        raise
    finally:
        if device:
            run("losetup", "-d", device)
        server.terminate()
        server.wait(30)
    read_log(raw_log, log)


def _server(image: Path, raw_log: Path, shown: Path) -> list[str]:
    return [
        "qemu-storage-daemon",
        *("--blockdev", f"file,node-name=image,filename={image}"),
        *("--blockdev", f"file,node-name=raw-log,filename={raw_log}"),
        *("--blockdev", "blklogwrites,node-name=logged,file=image,log=raw-log"),
        *("--export", f"fuse,id=shown,node-name=logged,mountpoint={shown},writable=on"),
    ]


def _wait_for(shown: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while shown.stat().st_size == 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise AssertionError("qemu-storage-daemon does not show its file")
        time.sleep(0.02)


def read_log(path: Path, log: Log) -> None:
    """Reads a log of ``blklogwrites`` into ``log``."""
    with path.open("rb") as file:
        _, _, count, sector = _SUPER.unpack(file.read(_SUPER.size))
        file.seek(sector)
        for _ in range(count):
            first, sectors, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            file.seek(sector - _ENTRY.size, os.SEEK_CUR)
            length, offset = sectors * sector, first * sector
            data = bytes(length) if flags & _DISCARD else file.read(length)
            if offset >= FILE_SYSTEM_BYTES and data:
                log.marks.append((len(log.entries), int.from_bytes(data[:8], "little")))
                continue
            log.entries.append(Write(offset, data, bool(flags & _FLUSH), bool(flags & _FUA)))


def copy(source: Path, target: Path) -> None:
    """A copy that has the holes of ``source``."""
    target.unlink(missing_ok=True)
    with source.open("rb") as old, target.open("xb") as new:
        clone_file(old.fileno(), new.fileno())


def cuts(log: Log, chance: random.Random, count: int, first: int = 0) -> list[Cut]:
    """``count`` different states, or all if there are fewer, sorted by their flush; of cuts after ``first`` entries."""
    found: dict[tuple[int, tuple[int, ...], tuple[int, int] | None], Cut] = {}
    positions = list(range(first, len(log.entries) + 1))
    for turn in range(60):
        for position in positions:
            made = _cut(log, chance, position, is_prefix=turn == 0)
            same = found.setdefault((made.flushed, made.kept, made.torn), made)
            if same.position < position:  # more was told by then
                found[made.flushed, made.kept, made.torn] = made
        if turn > 1 and len(found) >= count:
            break
    states = list(found.values())
    chance.shuffle(states)
    return sorted(states[:count], key=lambda cut: cut.flushed)


def _cut(log: Log, chance: random.Random, position: int, *, is_prefix: bool) -> Cut:
    flushed = log.flush_before(position)
    since = range(flushed, position)
    if is_prefix:
        return Cut(position, flushed, tuple(since))
    share = chance.choice((0.0, 0.2, 0.5, 0.8, 0.95))
    kept = tuple(n for n in since if log.entries[n].is_forced or chance.random() < share)
    torn = None
    long = [n for n in kept if len(log.entries[n].data) > SECTOR and not log.entries[n].is_forced]
    if long and chance.random() < 0.3:
        number = chance.choice(long)
        torn = (number, SECTOR * chance.randrange(1, len(log.entries[number].data) // SECTOR))
    return Cut(position, flushed, kept, torn)


class States:
    """Builds the device of one cut after the other; the cuts must come sorted by their flush."""

    def __init__(self, log: Log, directory: Path) -> None:
        self._log = log
        self._flushed = directory / f"{log.kind}.flushed"
        self._done = 0
        copy(log.base, self._flushed)

    def build(self, cut: Cut, target: Path) -> None:
        """Writes the device to ``target``."""
        with self._flushed.open("rb+") as file:
            for entry in self._log.entries[self._done : cut.flushed]:
                os.pwrite(file.fileno(), entry.data, entry.offset)
        self._done = cut.flushed
        copy(self._flushed, target)
        with target.open("rb+") as file:
            for number in cut.kept:
                entry = self._log.entries[number]
                length = cut.torn[1] if cut.torn is not None and cut.torn[0] == number else len(entry.data)
                os.pwrite(file.fileno(), entry.data[:length], entry.offset)


def missing_programs() -> list[str]:
    """Programs and devices that recording needs and this machine lacks."""
    programs = [name for name in ("qemu-storage-daemon", "mkfs.ext4", "mkfs.xfs", "losetup") if not shutil.which(name)]
    devices = [name for name in ("/dev/fuse", "/dev/loop-control") if not Path(name).exists()]
    return [*programs, *devices, *([] if os.geteuid() == 0 else ["root"])]
