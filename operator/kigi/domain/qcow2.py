"""The only qcow2 headers that Kigi accepts: an allow-list, checked when published, when cached and before every start.

A header decides which other files QEMU opens. So nothing is accepted because it is not known to be bad: every field has
the value that Kigi's own files have, or the file is refused.
Source: QEMU docs/interop/qcow2 (header, header extensions, refcounts, L1 table).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from kigi.domain.layers import Digest, layer_file_name
from kigi.errors import LayerRefused, OverlayRejected

CLUSTER_BITS = 16
CLUSTER_BYTES = 1 << CLUSTER_BITS
HEADER_BYTES = CLUSTER_BYTES
"""The header, its extensions and the backing file's name end within the first cluster."""
MAX_VIRTUAL_BYTES = 64 * 2**40
EMPTY_LAYER_BYTES = 4 * CLUSTER_BYTES
"""Header, refcount table, refcount block and L1 table: none of Kigi's qcow2 files is shorter."""

MAGIC = 0x514649FB
HEADER = struct.Struct(">IIQIIQIIQQIIQQQQII")
"""Fixed part of a version 3 header; ``_Fields`` names its fields."""
_EXTENSION = struct.Struct(">II")
_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
"""Type of the header extension that declares the backing file's format."""
_FEATURE_NAMES = 0x6803F857
_FORBIDDEN_EXTENSIONS = {
    0x44415441: ("data-file", "names an external data file"),
    0x0537BE77: ("encryption", "carries an encryption header"),
    0x23852875: ("bitmaps", "carries bitmaps"),
}
_HEADER_LENGTHS = (104, 112)
_INCOMPATIBLE_BITS = {
    0: ("dirty", "was not closed cleanly"),
    1: ("corrupt", "is marked corrupt"),
    2: ("data-file", "keeps its data in another file"),
    3: ("compression-type", "uses another compression than zlib"),
    4: ("extended-l2", "uses extended L2 entries"),
}
_COMPATIBLE_BITS = {0: ("lazy-refcounts", "uses lazy refcounts")}
_AUTOCLEAR_BITS = {0: ("bitmaps", "carries bitmaps"), 1: ("data-file", "keeps raw data in another file")}


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """The fields of an accepted header; sizes and offsets in bytes."""

    virtual_size_bytes: int
    backing_file: str | None
    header_length: int
    l1_entries: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int

    @property
    def tables_end(self) -> int:
        """First byte behind the tables that the header names."""
        refcounts = self.refcount_table_offset + self.refcount_table_clusters * CLUSTER_BYTES
        return max(self.l1_offset + self.l1_entries * 8, refcounts)


def parse_header(data: bytes) -> Qcow2Header:
    """The header at the start of ``data`` (the first HEADER_BYTES of the file, or the whole file if shorter).

    Raises LayerRefused with the rule that is broken; never anything else, whatever the bytes are.
    """
    if len(data) < HEADER.size:
        raise LayerRefused("truncated", f"the file ends after {len(data)} bytes, inside the qcow2 header")
    fields = _Fields(*HEADER.unpack_from(data))
    _check_form(fields)
    _check_features(data, fields)
    _require(
        0 < fields.virtual_size <= MAX_VIRTUAL_BYTES and fields.virtual_size % 512 == 0,
        "virtual-size",
        f"{fields.virtual_size} bytes of disk",
    )
    backing_file = _backing_file(data, fields.header_length, fields.backing_offset, fields.backing_size)
    _check_tables(fields)
    return Qcow2Header(
        fields.virtual_size,
        backing_file,
        fields.header_length,
        fields.l1_entries,
        fields.l1_offset,
        fields.refcount_offset,
        fields.refcount_clusters,
    )


class _Fields(NamedTuple):
    """HEADER's fields in their order."""

    magic: int
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    virtual_size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int
    compatible: int
    autoclear: int
    refcount_order: int
    header_length: int


def _check_form(fields: _Fields) -> None:
    _require(fields.magic == MAGIC, "magic", f"the file begins with {fields.magic:#010x}, not as a qcow2 file does")
    _require(fields.version == 3, "version", f"qcow2 version {fields.version} instead of 3")
    bits = fields.cluster_bits
    _require(bits == CLUSTER_BITS, "cluster-size", f"clusters of 2^{bits} bytes instead of 2^16")
    _require(fields.encryption == 0, "encryption", f"encryption method {fields.encryption}")
    has_snapshots = fields.snapshots != 0 or fields.snapshots_offset != 0
    _require(not has_snapshots, "snapshots", f"{fields.snapshots} internal snapshots")


def _check_features(data: bytes, fields: _Fields) -> None:
    _no_bits(fields.incompatible, _INCOMPATIBLE_BITS, "incompatible")
    _no_bits(fields.compatible, _COMPATIBLE_BITS, "compatible")
    _no_bits(fields.autoclear, _AUTOCLEAR_BITS, "autoclear")
    order, length = fields.refcount_order, fields.header_length
    _require(order == 4, "refcount-order", f"refcounts of 2^{order} bits instead of 2^4")
    _require(length in _HEADER_LENGTHS, "header-length", f"a header of {length} bytes")
    _require(not any(data[HEADER.size : length]), "compression-type", "another compression than zlib")


def _check_tables(fields: _Fields) -> None:
    """Size and place of the L1 table and the refcount table."""
    entries = -(-fields.virtual_size // (CLUSTER_BYTES * (CLUSTER_BYTES // 8)))
    _require(fields.l1_entries == entries, "l1-size", f"{fields.l1_entries} L1 entries instead of {entries}")
    _require(_is_table(fields.l1_offset), "l1-offset", f"an L1 table at {fields.l1_offset:#x}")
    _require(_is_table(fields.refcount_offset), "refcount-offset", f"a refcount table at {fields.refcount_offset:#x}")
    clusters = fields.refcount_clusters
    _require(0 < clusters <= 128, "refcount-size", f"a refcount table of {clusters} clusters")
    l1_end = fields.l1_offset + fields.l1_entries * 8
    refcounts_end = fields.refcount_offset + clusters * CLUSTER_BYTES
    apart = l1_end <= fields.refcount_offset or refcounts_end <= fields.l1_offset
    _require(apart, "overlapping-tables", "L1 and refcount tables that overlap")


def check_layer(
    data: bytes, *, digest: Digest, parent: Digest | None, virtual_size_bytes: int, size_bytes: int
) -> Qcow2Header:
    """The header of a layer that is exactly as declared; ``size_bytes`` is the length of the whole file.

    Raises LayerRefused; the message names the layer.
    """
    try:
        header = parse_header(data)
        expected = layer_file_name(parent) if parent is not None else None
        _require(
            header.backing_file == expected,
            "parent",
            f"the backing file {header.backing_file!r} instead of {expected!r}",
        )
        _require(
            header.virtual_size_bytes == virtual_size_bytes,
            "declared-virtual-size",
            f"a virtual size of {header.virtual_size_bytes} bytes instead of the declared {virtual_size_bytes}",
        )
        _require(header.tables_end <= size_bytes, "truncated", f"tables beyond its end at {size_bytes} bytes")
    except LayerRefused as exc:
        raise LayerRefused(exc.rule, f"layer {digest} has {_bare(exc)}; publish it with 'kigi publish'") from exc
    return header


def check_overlay(data: bytes, *, backing_name: str, virtual_size_bytes: int, size_bytes: int) -> Qcow2Header:
    """The header of an overlay that still refers to ``backing_name`` (relative) and nothing else.

    ``size_bytes`` is the length of the whole file.

    Raises OverlayRejected: a guest may have written the header, so the disk is not started and must be reset.
    """
    try:
        header = parse_header(data)
        _require(header.backing_file == backing_name, "parent", f"the backing file {header.backing_file!r}")
        same = header.virtual_size_bytes == virtual_size_bytes
        _require(same, "declared-virtual-size", f"a virtual size of {header.virtual_size_bytes} bytes")
        _require(header.tables_end <= size_bytes, "truncated", f"tables beyond its end at {size_bytes} bytes")
    except LayerRefused as exc:
        raise OverlayRejected(f"the overlay's header has {_bare(exc)} ({exc.rule}); reset the machine") from exc
    return header


def _backing_file(data: bytes, header_length: int, offset: int, size: int) -> str | None:
    """Name of the backing file; its format must be given and be qcow2, so that QEMU never guesses."""
    if offset == 0:
        _require(size == 0, "backing-file", "a backing file name without a place")
        backing_format, _ = _extensions(data, header_length, min(len(data), CLUSTER_BYTES))
        _require(backing_format is None, "backing-format", "a backing format without a backing file")
        return None
    _require(0 < size <= 1023, "backing-file", f"a backing file name of {size} bytes")
    in_place = header_length < offset and offset + size <= min(len(data), CLUSTER_BYTES)
    _require(in_place, "backing-file", f"a backing file name at {offset:#x}")
    backing_format, end = _extensions(data, header_length, offset)
    _require(end <= offset, "backing-file", "a backing file name inside the header extensions")
    _require(backing_format == b"qcow2", "backing-format", f"the backing format {backing_format!r} instead of qcow2")
    raw = data[offset : offset + size]
    _require(raw.isascii() and raw.decode("latin-1").isprintable(), "backing-file", "an unprintable backing file name")
    return raw.decode("ascii")


def _extensions(data: bytes, start: int, end: int) -> tuple[bytes | None, int]:
    """Backing format and first byte behind the extensions; each known one at most once, and a proper end."""
    backing_format: bytes | None = None
    seen: set[int] = set()
    position = start
    while True:
        _require(position + _EXTENSION.size <= end, "extensions", "header extensions without an end")
        kind, length = _EXTENSION.unpack_from(data, position)
        position += _EXTENSION.size
        if kind == _END:
            _require(length == 0, "extensions", "an end of header extensions that has a length")
            return backing_format, position
        if kind in _FORBIDDEN_EXTENSIONS:
            rule, what = _FORBIDDEN_EXTENSIONS[kind]
            raise LayerRefused(rule, f"a header extension that {what}")
        _require(
            kind in (EXTENSION_BACKING_FORMAT, _FEATURE_NAMES),
            "extensions",
            f"an unknown header extension {kind:#010x}",
        )
        _require(kind not in seen, "extensions", f"the header extension {kind:#010x} twice")
        _require(position + length <= end, "extensions", f"a header extension of {length} bytes")
        seen.add(kind)
        if kind == EXTENSION_BACKING_FORMAT:
            backing_format = data[position : position + length]
        position += -(-length // 8) * 8


def _is_table(offset: int) -> bool:
    return offset >= CLUSTER_BYTES and offset % CLUSTER_BYTES == 0 and offset < 2**56


def _no_bits(value: int, known: dict[int, tuple[str, str]], kind: str) -> None:
    for bit, (rule, what) in known.items():
        _require(not value >> bit & 1, rule, f"the {kind} feature bit {bit}: it {what}")
    _require(value == 0, f"{kind}-features", f"unknown {kind} feature bits {value:#x}")


def _require(condition: bool, rule: str, what: str) -> None:
    if not condition:
        raise LayerRefused(rule, what)


def _bare(exc: LayerRefused) -> str:
    return str(exc).removesuffix(f" ({exc.rule})")
