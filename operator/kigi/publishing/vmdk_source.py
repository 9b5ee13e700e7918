"""Accepts a VMDK only if QEMU opens no other file for it.

Source: QEMU block/vmdk.c (where a descriptor is read, and what its extents may name).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from kigi.errors import SpecInvalid

_SPARSE_MAGIC = b"KDMV"
VMDK_MAGICS = (_SPARSE_MAGIC, b"COWD", b"# Disk DescriptorFile")
_SINGLE_FILE_TYPES = ("monolithicSparse", "streamOptimized")
_CAPACITY_OFFSET = 12
_DESCRIPTOR = slice(512, 512 + 20 * 512)
"""Where QEMU reads a sparse VMDK's descriptor, whatever offset its header names."""


def refuse_several_files(path: Path, head: bytes) -> None:
    """Raises SpecInvalid unless the file is a sparse VMDK in one file.

    A descriptor may name any file of this machine as extent or parent.
    """
    remedy = "; make it one file with 'qemu-img convert -O vmdk -o subformat=monolithicSparse' where you trust it"
    if not head.startswith(_SPARSE_MAGIC) or len(head) < _DESCRIPTOR.start:
        raise SpecInvalid(f"{path}: is not a sparse VMDK in one file{remedy}")
    (capacity_sectors,) = struct.unpack_from("<Q", head, _CAPACITY_OFFSET)
    if capacity_sectors == 0:
        raise SpecInvalid(f"{path}: a VMDK whose descriptor names its extents{remedy}")
    descriptor = head[_DESCRIPTOR]
    kinds = re.findall(rb'createType\s*=\s*"([^"]*)"', descriptor)
    if len(kinds) != 1 or kinds[0].decode("latin-1") not in _SINGLE_FILE_TYPES:
        raise SpecInvalid(f"{path}: a VMDK of another type than {' or '.join(_SINGLE_FILE_TYPES)}{remedy}")
    if b"parentfilenamehint" in descriptor.lower() or not re.search(rb"(?i)parentCID\s*=\s*ffffffff", descriptor):
        raise SpecInvalid(f"{path}: a VMDK above a parent file{remedy}")
