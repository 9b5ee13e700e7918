"""What the tables of an overlay name: whoever captured a VM's disk may have written them.

In a file that QEMU wrote, every L2 table and every data cluster has one user, and none is compressed. Tables that name
a cluster twice make a small file describe a large disk, which would be written out in full.
Source: QEMU docs/interop/qcow2 (L1 and L2 tables).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from kigi.domain.qcow2 import CLUSTER_BYTES, HEADER_BYTES, parse_header
from kigi.errors import LayerRefused
from kigi.publishing.layer_writer import used_entries

SLACK_BYTES = 2**30
"""Beside twice the disk's size: more than tables and clusters without a user take in any file that QEMU wrote."""
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62


def check_tables(path: Path) -> int:
    """Bytes of the clusters that the tables of this file name, each once. Blocks; O(file / 64 KiB).

    Raises LayerRefused for a cluster with two users or beyond the end, for a compressed one, and for a file that is
    much longer than its disk: a hole of 8 EiB costs nothing, but memory is used for each of its clusters.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header = parse_header(file.read(HEADER_BYTES))
        if size_bytes > 2 * header.virtual_size_bytes + SLACK_BYTES:
            raise LayerRefused("tables", f"{size_bytes} bytes for a disk of {header.virtual_size_bytes}")
        used = _Clusters(size_bytes)
        data_clusters = 0
        for _, table in used_entries(_table(file, header.l1_offset, header.l1_entries, size_bytes)):
            used.take(table)
            for _, entry in used_entries(_table(file, table & _OFFSET, CLUSTER_BYTES // 8, size_bytes)):
                if entry & _OFFSET or entry & _COMPRESSED:
                    used.take(entry)
                    data_clusters += 1
    return data_clusters * CLUSTER_BYTES


class _Clusters:
    """The clusters of a file that have a user."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._count = -(-size_bytes // CLUSTER_BYTES)
        self._used = bytearray(-(-self._count // 8))
        """One bit for each."""

    def take(self, entry: int) -> None:
        """Give a cluster its only user. Raises LayerRefused."""
        if entry & _COMPRESSED:
            raise LayerRefused("tables", "a compressed cluster, which no running VM writes; reset the machine")
        number, rest = divmod(entry & _OFFSET, CLUSTER_BYTES)
        if rest or number >= self._count:
            raise LayerRefused("tables", f"tables that name a cluster at {entry & _OFFSET:#x}; reset the machine")
        place, bit = number >> 3, 1 << (number & 7)
        if self._used[place] & bit:
            raise LayerRefused("tables", f"two users of the cluster at {entry & _OFFSET:#x}; reset the machine")
        self._used[place] |= bit


def _table(file: BinaryIO, offset: int, count: int, size_bytes: int) -> bytes:
    """A table of ``count`` 64-bit numbers. Raises LayerRefused if the file ends within it."""
    if offset + count * 8 > size_bytes:  # file systems refuse to seek far behind the end
        raise LayerRefused("tables", f"a table at {offset:#x} beyond its end; reset the machine")
    file.seek(offset)
    return file.read(count * 8)
