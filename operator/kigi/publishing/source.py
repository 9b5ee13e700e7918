"""What a file given to ``kigi publish`` is, and whether it may be opened at all."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import HEADER_BYTES, parse_header
from kigi.errors import LayerRefused, SpecInvalid

_QCOW2 = b"QFI\xfb"
_VMDK = (b"KDMV", b"COWD", b"# Disk DescriptorFile")
_PROTOCOL = re.compile(r"^[a-z][a-z0-9+.-]*:")
MAX_FILES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A disk image: its file, its format as qemu-img names it, and the files below it, nearest first."""

    path: Path
    format: str
    backing: tuple[Path, ...] = ()
    ours: bool = False
    """Its header is one that Kigi writes: only the parent's name may have to change."""


def inspect(path: Path, image_format: str | None = None) -> Source:
    """The source, with every file that QEMU will open named; raises SpecInvalid for one that may not be opened.

    A raw image has no mark of its own: with ``image_format`` None, whatever is neither qcow2 nor vmdk is raw.
    """
    head = _head(path)
    found = image_format or _format_of(head)
    if found != "qcow2":
        if found not in ("raw", "vmdk"):
            raise SpecInvalid(f"{path}: format {found!r}; kigi publishes qcow2, raw and vmdk")
        return Source(path, found)
    backing: list[Path] = []
    current, name = path, _backing_name(path, head)
    while name is not None:
        current = (current.parent / name).resolve()
        if len(backing) >= MAX_FILES or current in backing or current == path.resolve():
            raise SpecInvalid(f"{path}: its backing files are more than {MAX_FILES}, or lead back to themselves")
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
    if offset == 0:
        return None
    if not (0 < length <= 1023 and offset + length <= len(head)):
        raise SpecInvalid(f"{path}: the name of its backing file lies outside its header")
    name = head[offset : offset + length].decode("utf-8", "replace")
    if _PROTOCOL.match(name) or "\0" in name:
        raise SpecInvalid(f"{path}: its backing file {name[:80]!r} is not a plain file name; rebase it first")
    return name
