"""The hook's change of a libvirt domain: the driver type of Kigi's disks, and nothing else.

The hook replaces bytes in the document and does not write XML: virt-launcher reads the answer into its own types and
passes the text on to libvirt, so every byte outside of the changed attribute values stays as virt-launcher wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pyexpat import ErrorString, ExpatError, ParserCreate, XMLParserType
from typing import NoReturn

MARK = "/vmi-disks/kigi-"
"""Part of the source path of each of Kigi's disks: virt-launcher mounts a volume at a path with the volume's name."""
MAX_BYTES = 4 * 2**20
"""The largest message that virt-launcher's gRPC client takes; a domain of 100 disks has 60 KB."""

_DISK = ["domain", "devices", "disk"]
_ATTRIBUTE = re.compile(rb"""\s+([^\s=/>"']+)\s*=\s*("[^"<]*"|'[^'<]*')""")


class DomainRefused(Exception):
    """The hook cannot change exactly Kigi's disks in this domain, so the VM must not start."""


@dataclass(slots=True)
class _Disk:
    device: str
    kind: str
    sources: list[str] = field(default_factory=list)
    drivers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Byte offset of each driver element in the document, and its attributes."""


def open_as_qcow2(document: bytes) -> tuple[bytes, int]:
    """The document with driver type ``qcow2`` for each of Kigi's disks, and the number of those disks (at least one).

    A disk that is qcow2 already stays unchanged, because virt-launcher defines the domain several times per start.
    Raises DomainRefused if there is no disk of Kigi, if one is not a plain file-backed disk of type raw or qcow2, or if
    the document is not UTF-8 XML without a document type declaration.
    """
    spans = [span for disk in _our_disks(document) for span in _raw_types(document, disk)]
    changed = bytearray(document)
    for start, end in sorted(spans, reverse=True):
        changed[start:end] = b"qcow2"
    result = bytes(changed)
    ours = _our_disks(result)
    if not ours or any(disk.drivers[0][1].get("type") != "qcow2" for disk in ours):
        raise DomainRefused("a Kigi disk is not qcow2 after the change: the domain has an unknown form")
    return result, len(ours)


def _raw_types(document: bytes, disk: _Disk) -> list[tuple[int, int]]:
    """Byte range of the value ``raw`` of the driver's type; empty if the type is qcow2. Checks the disk."""
    where = disk.sources[0]
    if disk.kind != "file" or disk.device not in ("disk", ""):
        raise DomainRefused(f"{where}: a Kigi disk must be a file-backed disk, not {disk.kind} {disk.device}")
    if len(disk.sources) != 1 or len(disk.drivers) != 1:
        raise DomainRefused(f"{where}: expected one source and one driver, found {disk.sources} and {disk.drivers}")
    offset, attributes = disk.drivers[0]
    if attributes.get("name", "qemu") != "qemu":
        raise DomainRefused(f"{where}: driver {attributes['name']!r} cannot open a layered disk; expected qemu")
    kind = attributes.get("type")
    if kind == "qcow2":
        return []
    if kind != "raw":
        raise DomainRefused(f"{where}: driver type {kind!r} is neither raw nor qcow2")
    position = offset + len("<driver")
    while match := _ATTRIBUTE.match(document, position):
        if match[1] == b"type":
            return [(match.start(2) + 1, match.end(2) - 1)]
        position = match.end()
    raise DomainRefused(f"{where}: the driver's type has an unknown form")


def _our_disks(document: bytes) -> list[_Disk]:
    """Kigi's disks of the domain. Only direct children of ``domain/devices`` count."""
    if len(document) > MAX_BYTES:
        raise DomainRefused(f"domain of {len(document)} bytes; expected at most {MAX_BYTES}")
    reader = _Reader()
    reader.read(document)
    if not any(MARK in source for disk in reader.disks for source in disk.sources):
        raise DomainRefused(f"no disk whose file path contains {MARK!r}: the VM has this hook but none of its disks")
    return [disk for disk in reader.disks if any(MARK in source for source in disk.sources)]


class _Reader:
    """Expat handlers that record the disks and the byte offsets of their drivers."""

    def __init__(self) -> None:
        self.disks: list[_Disk] = []
        self._path: list[str] = []
        self._parser: XMLParserType = ParserCreate()

    def read(self, document: bytes) -> None:
        parser = self._parser
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        try:
            parser.Parse(document, True)
        except ExpatError as exc:
            raise DomainRefused(f"the domain is not XML: {ErrorString(exc.code)} at line {exc.lineno}") from exc

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if (encoding or "utf-8").lower() != "utf-8":
            raise DomainRefused(f"the domain is in {encoding}; expected UTF-8")

    def _doctype(self, *_: object) -> NoReturn:
        raise DomainRefused("the domain has a document type declaration; entities are not followed")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if self._path == _DISK:
            self.disks.append(_Disk(attributes.get("device", ""), attributes.get("type", "")))
        elif self._path[:-1] == _DISK:
            if name == "source":
                self.disks[-1].sources.append(attributes.get("file", ""))
            elif name == "driver":
                self.disks[-1].drivers.append((self._parser.CurrentByteIndex, attributes))

    def _end(self, name: str) -> None:
        self._path.pop()
