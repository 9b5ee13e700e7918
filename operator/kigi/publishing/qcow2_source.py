"""Reads the header of any qcow2 file, version 2 or 3, and refuses what makes QEMU open more than plain files.

``kigi.domain.qcow2`` accepts only layers; this module accepts every image that qemu-img can convert to one.
Source: QEMU docs/interop/qcow2 (header, header extensions).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import EXTENSION_BACKING_FORMAT, MAX_VIRTUAL_BYTES
from kigi.errors import SpecInvalid

QCOW2_MAGIC = b"QFI\xfb"
_VERSION_2 = struct.Struct(">4sIQIIQIIQQIIQ")
"""The whole header of version 2, and the beginning of version 3's: magic, version, offset and length of the backing
file's name, cluster bits, virtual size, encryption, ..., number of snapshots, their offset."""
_INCOMPATIBLE = struct.Struct(">Q")
_EXTERNAL_DATA_FILE = 1 << 2
_HEADER_LENGTH = struct.Struct(">I")
_HEADER_LENGTH_OFFSET = 100
_EXTENSION = struct.Struct(">II")
_MAX_NAME_BYTES = 1023


@dataclass(frozen=True, slots=True)
class Header:
    """Fields that decide which files QEMU opens."""

    version: int
    backing_offset: int
    """0: no backing file."""
    backing_length: int
    virtual_size_bytes: int
    is_encrypted: bool
    snapshots: int
    has_external_data: bool
    extensions_offset: int


def backing_file_name(path: Path, head: bytes) -> str | None:
    """Name of the backing file in the first bytes of a qcow2 file; None: it has none.

    Raises SpecInvalid for a file that is no qcow2 image, or that makes QEMU open anything but plain qcow2 files.
    """
    header = _parse(path, head)
    _refuse_special(path, header)
    if header.backing_offset == 0:
        return None
    end = header.backing_offset + header.backing_length
    if not (0 < header.backing_length <= _MAX_NAME_BYTES and end <= len(head)):
        raise SpecInvalid(f"{path}: the name of its backing file lies outside its header")
    name = os.fsdecode(head[header.backing_offset : end])
    # QEMU's own rule: a colon before the first slash makes it a protocol.
    if ":" in name.split("/", 1)[0] or "\0" in name:
        raise SpecInvalid(f"{path}: its backing file {name[:80]!r} is not a plain file name; rebase it first")
    declared = _backing_format(head, header)
    if declared not in (None, b"qcow2"):
        raise SpecInvalid(
            f"{path}: its backing file is declared as {declared[:80]!r}, not qcow2; convert that file first"
        )
    return name


def _parse(path: Path, head: bytes) -> Header:
    if not head.startswith(QCOW2_MAGIC) or len(head) < _VERSION_2.size:
        raise SpecInvalid(f"{path}: is not a qcow2 file")
    fields = _VERSION_2.unpack_from(head)
    version = fields[1]
    features, extensions_offset = 0, _VERSION_2.size
    if version >= 3 and len(head) >= _VERSION_2.size + _INCOMPATIBLE.size:
        (features,) = _INCOMPATIBLE.unpack_from(head, _VERSION_2.size)
    if version >= 3 and len(head) >= _HEADER_LENGTH_OFFSET + _HEADER_LENGTH.size:
        (extensions_offset,) = _HEADER_LENGTH.unpack_from(head, _HEADER_LENGTH_OFFSET)
    return Header(
        version=version,
        backing_offset=fields[2],
        backing_length=fields[3],
        virtual_size_bytes=fields[5],
        is_encrypted=bool(fields[6]),
        snapshots=fields[11],
        has_external_data=bool(features & _EXTERNAL_DATA_FILE),
        extensions_offset=extensions_offset,
    )


def _refuse_special(path: Path, header: Header) -> None:
    if header.is_encrypted:
        raise SpecInvalid(f"{path}: is encrypted; decrypt it with 'qemu-img convert' first")
    if header.has_external_data:
        raise SpecInvalid(f"{path}: keeps its data in another file; convert it to one file first")
    if header.snapshots:
        raise SpecInvalid(f"{path}: has internal snapshots; convert the wanted one to a file of its own first")
    if header.virtual_size_bytes > MAX_VIRTUAL_BYTES:
        raise SpecInvalid(f"{path}: a virtual disk of {header.virtual_size_bytes} bytes; {MAX_VIRTUAL_BYTES} at most")


def _backing_format(head: bytes, header: Header) -> bytes | None:
    """The declared format of the backing file; None if the header leaves it open."""
    position, end = header.extensions_offset, min(header.backing_offset, len(head))
    while position + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(head, position)
        position += _EXTENSION.size
        if kind == EXTENSION_BACKING_FORMAT:
            return head[position : position + length]
        if kind == 0:
            return None
        position += -(-length // 8) * 8
    return None
