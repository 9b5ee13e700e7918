"""A clone has the bytes and the holes of its source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kigi_cache.disks.cloning import clone_file

MIB = 2**20
Part = tuple[int, bytes]

FILES: dict[str, tuple[int, list[Part]]] = {
    "empty": (0, []),
    "a byte": (1, [(0, b"a")]),
    "only a hole": (3 * MIB, []),
    "data between holes": (8 * MIB, [(MIB, b"b" * 65536), (5 * MIB, b"c" * 100)]),
    "data up to the end": (2 * MIB, [(2 * MIB - 5, b"final")]),
}


@pytest.mark.parametrize(("size", "parts"), FILES.values(), ids=FILES.keys())
def test_a_clone_equals_its_source(tmp_path: Path, size: int, parts: list[Part]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(size)
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
    with source.open("rb") as read, target.open("wb") as written:
        clone_file(read.fileno(), written.fileno())
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 8, "holes stay holes"


def test_a_closed_source_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as target:
        number = os.open(tmp_path, os.O_RDONLY)
        os.close(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            clone_file(number, target.fileno())
