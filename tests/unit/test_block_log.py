"""What a power cut may leave of a recorded device, and what it may not."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.support.block_log import FILE_SYSTEM_BYTES, SECTOR, Cut, Log, States, Write, cuts, read_log


def write(number: int, sectors: int = 1, *, forced: bool = False) -> Write:
    return Write(number * SECTOR, bytes([number]) * SECTOR * sectors, is_flush=False, is_forced=forced)


FLUSH = Write(0, b"", is_flush=True, is_forced=False)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    base = tmp_path / "base"
    base.write_bytes(bytes(64 * SECTOR))
    entries = [write(1), write(2), FLUSH, write(3), write(4, forced=True), write(5, 4), FLUSH, write(9)]
    return Log("ext4", base, entries)


def test_what_was_flushed_or_forced_is_in_each_state_and_nothing_that_came_later(log: Log) -> None:
    found = cuts(log, random.Random(1), 1000)
    assert len(found) > 15
    for cut in found:
        flushes = [n + 1 for n, entry in enumerate(log.entries[: cut.position]) if entry.is_flush]
        assert cut.flushed == max(flushes, default=0)
        assert all(cut.flushed <= n < cut.position for n in cut.kept)
        forced = {n for n in range(cut.flushed, cut.position) if log.entries[n].is_forced}
        assert forced <= set(cut.kept)
        assert cut.torn is None or cut.torn[0] not in forced
    assert [cut.flushed for cut in found] == sorted(cut.flushed for cut in found)


def test_writes_that_were_not_flushed_are_there_in_any_combination(log: Log) -> None:
    combinations = {cut.kept for cut in cuts(log, random.Random(1), 1000) if cut.position == 6}
    assert combinations == {(4,), (3, 4), (4, 5), (3, 4, 5)}


def test_a_state_has_the_bytes_of_its_writes_and_half_of_a_torn_one(log: Log, tmp_path: Path) -> None:
    states, target = States(log, tmp_path), tmp_path / "state"
    states.build(Cut(6, 3, (4, 5), (5, 2 * SECTOR)), target)
    there = {n for n in range(12) if target.read_bytes()[n * SECTOR]}
    assert there == {1, 2, 4, 5, 6}
    states.build(Cut(7, 7, ()), target)
    assert {n for n in range(12) if target.read_bytes()[n * SECTOR]} == {1, 2, 3, 4, 5, 6, 7, 8}


def test_a_log_of_qemu_is_read(tmp_path: Path) -> None:
    """Source: Linux Documentation/admin-guide/device-mapper/log-writes.rst."""
    entries = [(8, 2, 0, b"a" * 1024), (0, 0, 1, b""), (16, 1, 2, b"b" * 512), (24, 4, 4, b"")]
    entries.append((FILE_SYSTEM_BYTES // SECTOR, 1, 0, (7).to_bytes(8, "little").ljust(512, b"\0")))
    path = tmp_path / "log"
    text = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR).ljust(SECTOR, b"\0")
    for sector, count, flags, data in entries:
        text += struct.pack("<QQQQ", sector, count, flags, len(data)).ljust(SECTOR, b"\0") + data
    path.write_bytes(text)
    log = Log("xfs", tmp_path / "base")
    read_log(path, log)
    assert log.entries == [
        Write(4096, b"a" * 1024, is_flush=False, is_forced=False),
        FLUSH,
        Write(8192, b"b" * 512, is_flush=False, is_forced=True),
        Write(12288, bytes(2048), is_flush=False, is_forced=False),
    ]
    assert log.marks == [(4, 7)]
