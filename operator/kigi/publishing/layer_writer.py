"""Writes a layer: a qcow2 file of exactly the clusters in which a disk differs from its parent's.

qemu-img keeps every cluster that was ever written above the parent, also those that came out equal; a layer holds none
of them, because its size is what a deployment moves. Equal disks give equal files, byte for byte, and so equal digests.
Source: QEMU docs/interop/qcow2 (header, header extensions, L1 and L2 tables, refcounts).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
"""Bytes of a cluster: 64 KiB, QEMU's own default."""
ZEROS = bytes(CLUSTER)

_MAGIC = 0x514649FB
_HEADER = struct.Struct(">IIQIIQIIQQIIQQQQII")
_EXT_BACKING_FORMAT = 0xE2792ACA
_BACKING_OFFSET, _BACKING_SIZE, _HEADER_LENGTH = 2, 3, 17
"""Places of these fields in the fixed header."""
_ENTRIES = CLUSTER // 8
"""8-byte entries of one L2 table: it maps 512 MiB of disk."""
_REFCOUNTS = CLUSTER // 2
"""16-bit entries of one refcount block."""
_COPIED = 1 << 63
"""Set on L1 and L2 entries whose target has refcount 1: it may be written in place."""
_READS_ZERO = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Cluster indices in which a disk differs from its parent's, ascending, and disjoint.

    ``zero``: now all zeros, and not so in the parent. ``data``: other bytes.
    """

    data: tuple[int, ...]
    zero: tuple[int, ...]


ReadCluster = Callable[[int], bytes]
"""Bytes of the cluster with this index, always a whole cluster."""


def compare(size_bytes: int, candidates: Iterable[int], child: ReadCluster, parent: ReadCluster) -> Difference:
    """The difference among the ``candidates``, which must name every cluster that may differ."""
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
    """A new qcow2 version 3 file of ``size_bytes`` (a multiple of 512) above ``backing`` (a qcow2 file).

    ``read`` gives the bytes of ``difference.data``. Equal arguments give equal files. Refcounts are complete, so
    ``qemu-img check`` finds nothing.
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
    """Length of the file that ``write_layer`` makes of this difference."""
    return _Layout.of(size_bytes, difference).total * CLUSTER


def read_difference(path: Path) -> Difference:
    """The clusters that a file of ``write_layer`` holds; it is no reader for other people's qcow2 files."""
    data: list[int] = []
    zero: list[int] = []
    with path.open("rb") as file:
        header = _HEADER.unpack(file.read(_HEADER.size))
        l1_entries, l1_start = header[7], header[8]
        file.seek(l1_start)
        l1 = struct.unpack(f">{l1_entries}Q", file.read(l1_entries * 8))
        for table, entry in enumerate(l1):
            if not entry:
                continue
            file.seek(entry & ~_COPIED)
            for place, target in enumerate(struct.unpack(f">{_ENTRIES}Q", file.read(CLUSTER))):
                if target:
                    (zero if target == _READS_ZERO else data).append(table * _ENTRIES + place)
    return Difference(tuple(data), tuple(zero))


def is_canonical(path: Path, size_bytes: int) -> bool:
    """Whether the file behind its header is, table for table, what ``write_layer`` makes of the clusters it holds.

    Then it has no stale, hidden, compressed or misplaced cluster. ``size_bytes``: virtual size in its header.
    """
    try:
        difference = read_difference(path)
    except (struct.error, OSError, ValueError):
        return False  # a table that ends early, or lies where no file ends
    plan = _Layout.of(size_bytes, difference)
    if path.stat().st_size != plan.total * CLUSTER:
        return False
    with path.open("rb") as file:
        file.seek(CLUSTER)
        return all(file.read(len(part)) == part for part in plan.tables(difference))


def with_backing(first_cluster: bytes, backing: str | None) -> bytes:
    """The first cluster of a layer file, with another backing file's name and nothing else changed.

    ``first_cluster`` must be one that ``kigi.domain.qcow2.parse_header`` accepts: then the name and the extensions are
    all that lies behind its fixed header.
    """
    fields = list(_HEADER.unpack_from(first_cluster))
    extensions, name = _behind_header(backing)
    fields[_BACKING_OFFSET] = _HEADER.size + len(extensions) if backing is not None else 0
    fields[_BACKING_SIZE] = len(name)
    fields[_HEADER_LENGTH] = _HEADER.size
    return (_HEADER.pack(*fields) + extensions + name).ljust(CLUSTER, b"\0")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts lie, in clusters: header, refcount table, refcount blocks, L1 table, L2 tables, data."""

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
        # The refcount blocks count themselves too; the sum settles after a step or two.
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
    extensions, name = _behind_header(backing)
    fixed = _HEADER.pack(
        _MAGIC,
        3,
        _HEADER.size + len(extensions) if backing is not None else 0,
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
        _HEADER.size,
    )
    return fixed + extensions + name


def _behind_header(backing: str | None) -> tuple[bytes, bytes]:
    """Header extensions and the backing file's name, which follow the fixed header."""
    extensions = b""
    if backing is not None:
        extensions += struct.pack(">II", _EXT_BACKING_FORMAT, 5) + b"qcow2".ljust(8, b"\0")
    return extensions + struct.pack(">II", 0, 0), (backing or "").encode()
