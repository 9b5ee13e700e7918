"""Inspects a file given to ``kigi publish``: its format, and every other file that QEMU would open with it.

An image can name other files of this machine, whose content would then be published: a backing file, a VMDK's extent or
parent, an external data file. Only backing files in the image's own folder, or in a folder that the caller names, are
accepted; everything else is refused before qemu-img opens it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import HEADER_BYTES, parse_header
from kigi.errors import LayerRefused, SpecInvalid
from kigi.publishing.qcow2_source import QCOW2_MAGIC, backing_file_name
from kigi.publishing.vmdk_source import VMDK_MAGICS, refuse_several_files

MAX_BACKING_FILES = 64
MAX_SHOWN = 500
"""Characters of a path in a message."""


@dataclass(frozen=True, slots=True)
class Source:
    """A disk image, its format as qemu-img names it, and the qcow2 files below it, nearest first."""

    path: Path
    format: str
    backing: tuple[Path, ...] = ()
    is_layer_format: bool = False
    """Its header has Kigi's form: only the backing file's name may differ from a layer's."""


def inspect(path: Path, image_format: str | None = None, backing_dirs: Sequence[Path] = ()) -> Source:
    """The source with every file that QEMU opens for it; raises SpecInvalid for one that may not be opened.

    ``image_format`` None: detected; a file that is neither qcow2 nor vmdk is raw, as a raw image has no magic number.
    ``backing_dirs``: folders besides that of ``path`` in which backing files may be.
    """
    head = _head(path)
    match image_format or _format_of(head):
        case "qcow2":
            backing = _backing_files(path, head, [path.parent, *backing_dirs])
            return Source(path, "qcow2", backing, is_layer_format=_is_layer_format(head))
        case "vmdk":
            refuse_several_files(path, head)
            return Source(path, "vmdk")
        case "raw":
            return Source(path, "raw")
        case other:
            raise SpecInvalid(f"{path}: format {other!r}; kigi publishes qcow2, raw and vmdk")


def _backing_files(path: Path, head: bytes, folders: Sequence[Path]) -> tuple[Path, ...]:
    current, name = path, backing_file_name(path, head)
    if name is None:
        return ()
    trusted = [folder.resolve() for folder in folders]
    backing: list[Path] = []
    seen = {path.resolve()}
    while name is not None:
        # Resolved only for the checks: QEMU searches beside a symbolic link, not beside its target.
        current = current.parent / name
        real = Path(os.path.realpath(current))  # Path.resolve() raises RuntimeError for links that lead in a circle
        if not any(real.is_relative_to(folder) for folder in trusted):
            raise SpecInvalid(
                f"{path}: its backing file {name[:80]!r} lies outside the image's folder; move it there, or "
                "name its folder with --backing-dir if that file may be published"
            )
        if len(backing) >= MAX_BACKING_FILES or real in seen:
            raise SpecInvalid(
                f"{path}: it has more than {MAX_BACKING_FILES} backing files, or they lead back to themselves"
            )
        seen.add(real)
        backing.append(current)
        name = backing_file_name(current, _head(current))
    return tuple(backing)


def _is_layer_format(head: bytes) -> bool:
    try:
        parse_header(head)
    except LayerRefused:
        return False
    return True


def _format_of(head: bytes) -> str:
    if head.startswith(QCOW2_MAGIC):
        return "qcow2"
    return "vmdk" if head.startswith(VMDK_MAGICS) else "raw"


def _head(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise SpecInvalid(f"{_shown(path)}: is not a regular file")
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as exc:
        raise SpecInvalid(f"{_shown(path)}: cannot be read: {exc.strerror}") from exc


def _shown(path: Path) -> str:
    """The path as messages show it: the name of a backing file may have control characters."""
    text = str(path)
    return text if text.isprintable() and len(text) <= MAX_SHOWN else repr(text[:MAX_SHOWN])
