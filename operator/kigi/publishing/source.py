"""What a file given to ``kigi publish`` is, and whether it may be opened at all.

An image can name other files of this machine, whose content would then be published: a backing file, a VMDK's extent
or parent, an external data file. Only backing files in the image's own folder (or a folder that the caller names) are
read; everything else is refused before qemu-img sees it.
Source: QEMU docs/interop/qcow2; block/vmdk (where a descriptor is read and what its extents may name).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import HEADER_BYTES, MAX_VIRTUAL_BYTES, parse_header
from kigi.errors import LayerRefused, SpecInvalid

_QCOW2 = b"QFI\xfb"
_VMDK = (b"KDMV", b"COWD", b"# Disk DescriptorFile")
_VMDK_TYPES = ("monolithicSparse", "streamOptimized")
"""Those that are one file."""
_DESCRIPTOR = slice(512, 512 + 20 * 512)
"""Where QEMU looks for a sparse VMDK's descriptor, wherever its header says that it is."""
_BACKING_FORMAT = 0xE2792ACA
MAX_FILES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A disk image: its file, its format as qemu-img names it, and the qcow2 files below it, nearest first."""

    path: Path
    format: str
    backing: tuple[Path, ...] = ()
    ours: bool = False
    """Its header is one that Kigi writes: only the parent's name may have to change."""


def inspect(path: Path, image_format: str | None = None, backing_dirs: Sequence[Path] = ()) -> Source:
    """The source, with every file that QEMU will open named; raises SpecInvalid for one that may not be opened.

    A raw image has no mark of its own: with ``image_format`` None, whatever is neither qcow2 nor vmdk is raw.
    ``backing_dirs``: folders beside that of ``path`` in which backing files may lie.
    """
    head = _head(path)
    found = image_format or _format_of(head)
    if found == "vmdk":
        _refuse_other_files_of_vmdk(path, head)
    if found != "qcow2":
        if found not in ("raw", "vmdk"):
            raise SpecInvalid(f"{path}: format {found!r}; kigi publishes qcow2, raw and vmdk")
        return Source(path, found)
    trusted = [folder.resolve() for folder in (path.parent, *backing_dirs)]
    backing: list[Path] = []
    seen = {path.resolve()}
    current, name = path, _backing_name(path, head)
    while name is not None:
        # Not resolved before the next step: QEMU looks beside a symbolic link, not beside its target.
        current = current.parent / name
        real = current.resolve()
        if not any(real.is_relative_to(folder) for folder in trusted):
            raise SpecInvalid(
                f"{path}: its backing file {name!r} lies outside the image's folder; move it there, or name its folder "
                "with --backing-dir if that file may be published"
            )
        if len(backing) >= MAX_FILES or real in seen:
            raise SpecInvalid(f"{path}: its backing files are more than {MAX_FILES}, or lead back to themselves")
        seen.add(real)
        backing.append(current)
        name = _backing_name(current, _head(current))
    return Source(path, "qcow2", tuple(backing), ours=_is_ours(head))


def _is_ours(head: bytes) -> bool:
    try:
        parse_header(head)
    except LayerRefused:
        return False
    return True


def _format_of(head: bytes) -> str:
    if head.startswith(_QCOW2):
        return "qcow2"
    return "vmdk" if head.startswith(_VMDK) else "raw"


def _head(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise SpecInvalid(f"{path}: is not a regular file")
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as exc:
        raise SpecInvalid(f"{path}: cannot be read: {exc.strerror}") from exc


def _backing_name(path: Path, head: bytes) -> str | None:
    """Name of the backing file in a qcow2 header; raises for anything that makes QEMU open what is not a plain file."""
    if not head.startswith(_QCOW2) or len(head) < 72:
        raise SpecInvalid(f"{path}: is not a qcow2 file")
    version, offset, length = struct.unpack_from(">IQI", head, 4)
    (encryption,) = struct.unpack_from(">I", head, 32)
    (snapshots,) = struct.unpack_from(">I", head, 60)
    features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
    if encryption:
        raise SpecInvalid(f"{path}: is encrypted; decrypt it with 'qemu-img convert' first")
    if features & 4:
        raise SpecInvalid(f"{path}: keeps its data in another file; convert it to one file first")
    if snapshots:
        raise SpecInvalid(f"{path}: has internal snapshots; convert the wanted one to a file of its own first")
    (virtual,) = struct.unpack_from(">Q", head, 24)
    if virtual > MAX_VIRTUAL_BYTES:
        raise SpecInvalid(f"{path}: a virtual disk of {virtual} bytes; {MAX_VIRTUAL_BYTES} at most")
    if offset == 0:
        return None
    if not (0 < length <= 1023 and offset + length <= len(head)):
        raise SpecInvalid(f"{path}: the name of its backing file lies outside its header")
    name = os.fsdecode(head[offset : offset + length])
    # QEMU's own rule: a colon before the first slash makes it a protocol.
    if ":" in name.split("/", 1)[0] or "\0" in name:
        raise SpecInvalid(f"{path}: its backing file {name[:80]!r} is not a plain file name; rebase it first")
    declared = _backing_format(head, offset, version)
    if declared not in (None, b"qcow2"):
        raise SpecInvalid(f"{path}: its backing file is declared as {declared!r}, not qcow2; convert that file first")
    return name


def _backing_format(head: bytes, end: int, version: int) -> bytes | None:
    """The declared format of the backing file; None if the header leaves it open."""
    position = struct.unpack_from(">I", head, 100)[0] if version >= 3 and len(head) >= 104 else 72
    while position + 8 <= min(end, len(head)):
        kind, length = struct.unpack_from(">II", head, position)
        if kind == _BACKING_FORMAT:
            return head[position + 8 : position + 8 + length]
        if kind == 0:
            return None
        position += 8 + -(-length // 8) * 8
    return None


def _refuse_other_files_of_vmdk(path: Path, head: bytes) -> None:
    """Accepts a sparse VMDK that is one file; a descriptor may name any file of this machine as extent or parent."""
    one_file = "; make it one file with 'qemu-img convert -O vmdk -o subformat=monolithicSparse' where you trust it"
    if not head.startswith(b"KDMV") or len(head) < _DESCRIPTOR.start:
        raise SpecInvalid(f"{path}: is not a sparse VMDK in one file{one_file}")
    (capacity_sectors,) = struct.unpack_from("<Q", head, 12)
    if capacity_sectors == 0:
        raise SpecInvalid(f"{path}: a VMDK whose descriptor names its extents{one_file}")
    descriptor = head[_DESCRIPTOR]
    kinds = re.findall(rb'createType\s*=\s*"([^"]*)"', descriptor)
    if len(kinds) != 1 or kinds[0].decode("latin-1") not in _VMDK_TYPES:
        raise SpecInvalid(f"{path}: a VMDK of another type than {' or '.join(_VMDK_TYPES)}{one_file}")
    if b"parentfilenamehint" in descriptor.lower() or not re.search(rb"(?i)parentCID\s*=\s*ffffffff", descriptor):
        raise SpecInvalid(f"{path}: a VMDK above a parent file{one_file}")
