"""Writes a layer: a qcow2 file with exactly the clusters in which a disk differs from its parent's.

qemu-img keeps every cluster that was ever written above the parent, even if its bytes are equal again; a layer holds
none of them, because a deployment moves its bytes. Equal disks give equal files, byte for byte, and equal digests.
Source: QEMU docs/interop/qcow2 (header, header extensions, L1 and L2 tables, refcounts).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import CLUSTER_BITS, CLUSTER_BYTES, EXTENSION_BACKING_FORMAT, HEADER, MAGIC

CLUSTER = CLUSTER_BYTES
ZEROS = bytes(CLUSTER)

_BACKING_OFFSET, _BACKING_SIZE, _HEADER_LENGTH = 2, 3, 17
"""Indices of these fields in HEADER."""
_ENTRIES = CLUSTER // 8
"""8-byte entries of one L2 table: it maps 512 MiB of disk."""
_REFCOUNTS = CLUSTER // 2
"""16-bit entries of one refcount block."""
_ENTRY = struct.Struct(">Q")
_PIECE = bytes(512)
_COPIED = 1 << 63
"""Set on L1 and L2 entries whose target has refcount 1: it may be written in place."""
_READS_ZERO = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Indices of the clusters that differ from the parent's, ascending and disjoint.

    ``zero``: all zeros, and not in the parent. ``data``: any other bytes.
    """

    data: tuple[int, ...]
    zero: tuple[int, ...]


ReadCluster = Callable[[int], bytes]
"""Index -> bytes of the whole cluster."""


def compare(size_bytes: int, candidates: Iterable[int], child: ReadCluster, parent: ReadCluster) -> Difference:
    """The difference of two disks of ``size_bytes``; ``candidates``: all indices that may differ. O(candidates)."""
    data: list[int] = []
    zero: list[int] = []
    for index in sorted(candidates):
        if index * CLUSTER >= size_bytes:
            raise ValueError(f"cluster {index} begins behind the disk's end of {size_bytes} bytes")
        now = child(index)
        if now == parent(index):
            continue
        (zero if now == ZEROS else data).append(index)
    return Difference(tuple(data), tuple(zero))


def write_layer(path: Path, size_bytes: int, backing: str | None, difference: Difference, read: ReadCluster) -> None:
    """Writes a new qcow2 file; ``size_bytes``: virtual size, a multiple of 512; ``backing``: the parent's file name.

    ``read`` returns the clusters of ``difference.data``. Equal arguments give equal files. Refcounts are complete, so
    ``qemu-img check`` finds no error.
    """
    if size_bytes % 512:
        raise ValueError(f"virtual size {size_bytes} is not a multiple of 512")
    plan = _Layout.of(size_bytes, difference)
    with path.open("xb") as out:
        out.write(_header(size_bytes, backing, plan).ljust(CLUSTER, b"\0"))
        for part in plan.tables(difference):
            out.write(part)
        for index in difference.data:
            out.write(read(index))


def layer_bytes(size_bytes: int, difference: Difference) -> int:
    """Size of the file that ``write_layer`` writes for this difference."""
    return _Layout.of(size_bytes, difference).total * CLUSTER


def read_difference(path: Path) -> Difference:
    """The clusters that a file of ``write_layer`` holds; tables of other qcow2 files may have forms not read here.

    Raises ValueError unless the L2 tables are one behind the other and in use, with no more clusters than the file has:
    entries that all name the same would make a small file take all memory.
    """
    data: list[int] = []
    zero: list[int] = []
    clusters = path.stat().st_size // CLUSTER
    with path.open("rb") as file:
        header = HEADER.unpack(file.read(HEADER.size))
        l1_entries, l1_start = header[7], header[8]
        file.seek(l1_start)
        l1 = struct.unpack(f">{l1_entries}Q", file.read(l1_entries * 8))
        named = [entry for entry in l1 if entry]
        if named != [named[0] + place * CLUSTER for place in range(len(named))]:
            raise ValueError("L2 tables that are not one behind the other")
        for table, entry in enumerate(l1):
            if not entry:
                continue
            file.seek(entry & ~_COPIED)
            entries = file.read(CLUSTER)
            if entries == ZEROS:  # as the holes of a long file, which cost nothing to whoever made it
                raise ValueError("an L2 table without an entry")
            for place, target in used_entries(entries):
                (zero if target == _READS_ZERO else data).append(table * _ENTRIES + place)
                if len(data) > clusters:
                    raise ValueError("entries that name a cluster twice")
    return Difference(tuple(data), tuple(zero))


def used_entries(table: bytes) -> Iterator[tuple[int, int]]:
    """Places and values of a table's 64-bit entries that are not 0; most tables have few of them."""
    for start in range(0, len(table), len(_PIECE)):
        piece = table[start : start + len(_PIECE)]
        if piece != _PIECE:
            for place, (entry,) in enumerate(_ENTRY.iter_unpack(piece), start // 8):
                if entry:
                    yield place, entry


def is_canonical(path: Path, size_bytes: int) -> bool:
    """Whether the file after its header is byte for byte what ``write_layer`` writes for the clusters it holds.

    Such a file has no stale, hidden, compressed or misplaced cluster. ``size_bytes``: virtual size in its header.
    """
    try:
        difference = read_difference(path)
    except (struct.error, OSError, ValueError):
        return False  # a table is cut, or lies beyond the end of the file
    plan = _Layout.of(size_bytes, difference)
    if path.stat().st_size != plan.total * CLUSTER:
        return False
    with path.open("rb") as file:
        file.seek(CLUSTER)
        return all(file.read(len(part)) == part for part in plan.tables(difference))


def with_backing(first_cluster: bytes, backing: str | None) -> bytes:
    """The first cluster of a layer file with another backing file's name, and nothing else changed.

    ``kigi.domain.qcow2.parse_header`` must accept ``first_cluster``: then only extensions and the name follow its fixed
    header.
    """
    fields = list(HEADER.unpack_from(first_cluster))
    extensions, name = _variable_header(backing)
    fields[_BACKING_OFFSET] = HEADER.size + len(extensions) if backing is not None else 0
    fields[_BACKING_SIZE] = len(name)
    fields[_HEADER_LENGTH] = HEADER.size
    return (HEADER.pack(*fields) + extensions + name).ljust(CLUSTER, b"\0")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Sizes of the file's parts in clusters: header, refcount table, refcount blocks, L1 table, L2 tables, data."""

    l1_entries: int
    l2_tables: tuple[int, ...]
    l1_clusters: int
    table_clusters: int
    blocks: int
    total: int

    @classmethod
    def of(cls, size_bytes: int, difference: Difference) -> _Layout:
        l1_entries = -(-size_bytes // (CLUSTER * _ENTRIES))
        l1_clusters = -(-l1_entries * 8 // CLUSTER)
        l2_tables = tuple(sorted({index // _ENTRIES for index in (*difference.data, *difference.zero)}))
        rest = 1 + l1_clusters + len(l2_tables) + len(difference.data)
        blocks = table_clusters = 1
        # Refcount blocks count themselves as well; the sum is stable after a step or two.
        while (total := rest + blocks + table_clusters) > blocks * _REFCOUNTS:
            blocks = -(-total // _REFCOUNTS)
            table_clusters = -(-blocks // _ENTRIES)
        return cls(l1_entries, l2_tables, l1_clusters, table_clusters, blocks, total)

    @property
    def l1_start(self) -> int:
        return 1 + self.table_clusters + self.blocks

    def tables(self, difference: Difference) -> Iterator[bytes]:
        """Everything between the header and the data, in order."""
        starts = [(1 + self.table_clusters + n) * CLUSTER for n in range(self.blocks)]
        yield struct.pack(f">{len(starts)}Q", *starts).ljust(self.table_clusters * CLUSTER, b"\0")
        used = b"\0\1" * self.total
        yield used.ljust(self.blocks * CLUSTER, b"\0")
        l2_start = self.l1_start + self.l1_clusters
        l1 = [0] * self.l1_entries
        for place, table in enumerate(self.l2_tables):
            l1[table] = (l2_start + place) * CLUSTER | _COPIED
        yield struct.pack(f">{len(l1)}Q", *l1).ljust(self.l1_clusters * CLUSTER, b"\0")
        place_of = {table: place for place, table in enumerate(self.l2_tables)}
        l2 = [[0] * _ENTRIES for _ in self.l2_tables]
        data_start = l2_start + len(self.l2_tables)
        for place, index in enumerate(difference.data):
            l2[place_of[index // _ENTRIES]][index % _ENTRIES] = (data_start + place) * CLUSTER | _COPIED
        for index in difference.zero:
            l2[place_of[index // _ENTRIES]][index % _ENTRIES] = _READS_ZERO
        for table_entries in l2:
            yield struct.pack(f">{_ENTRIES}Q", *table_entries)


def _header(size_bytes: int, backing: str | None, plan: _Layout) -> bytes:
    extensions, name = _variable_header(backing)
    fixed = HEADER.pack(
        MAGIC,
        3,
        HEADER.size + len(extensions) if backing is not None else 0,
        len(name),
        CLUSTER_BITS,
        size_bytes,
        0,  # not encrypted
        plan.l1_entries,
        plan.l1_start * CLUSTER,
        CLUSTER,
        plan.table_clusters,
        0,  # no snapshots
        0,
        0,  # no incompatible, compatible or autoclear features
        0,
        0,
        4,  # refcounts of 2^4 bits
        HEADER.size,
    )
    return fixed + extensions + name


def _variable_header(backing: str | None) -> tuple[bytes, bytes]:
    """Header extensions and the backing file's name, which follow the fixed header."""
    extensions = b""
    if backing is not None:
        extensions += struct.pack(">II", EXTENSION_BACKING_FORMAT, 5) + b"qcow2".ljust(8, b"\0")
    return extensions + struct.pack(">II", 0, 0), (backing or "").encode()
