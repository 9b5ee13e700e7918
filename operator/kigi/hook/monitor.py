"""The hook's second change of a libvirt domain: a QMP monitor of QEMU for the node's daemon.

libvirt passes the arguments in ``qemu:commandline`` on to QEMU. The hook inserts its two and writes nothing else, see
``hook.domain``. A VM that has no monitor runs all the same: its captures pause it through KubeVirt.
"""

from __future__ import annotations

from pyexpat import ExpatError, ParserCreate, XMLParserType

SOCKET = "/var/run/kubevirt-private/kigi-qmp.sock"
"""In the directory that KubeVirt mounts for virt-launcher, and for the container that shows the guest's serial console.
It is not in the volume, which other pods could mount."""
VALUE = f"unix:{SOCKET},server=on,wait=off"
_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_COMMANDLINE = ["domain", "qemu:commandline"]
_ARGUMENTS = "".join(f'<qemu:arg value="{value}"></qemu:arg>' for value in ("-qmp", VALUE))


def add_monitor(document: bytes) -> bytes:
    """The domain with the arguments, or as it is: it has them already, or a form in which there is no place for them.

    ``document`` is a domain that ``open_as_qcow2`` has returned.
    """
    reader = _Reader()
    try:
        reader.read(document)
    except ExpatError:
        return document
    if reader.has_monitor:
        return document
    if reader.arguments_end is not None:
        return _inserted(document, reader.arguments_end, _ARGUMENTS)
    if reader.domain_end is None or reader.has_arguments:
        return document
    element = f'<qemu:commandline xmlns:qemu="{_NAMESPACE}">{_ARGUMENTS}</qemu:commandline>'
    return _inserted(document, reader.domain_end, element)


def _inserted(document: bytes, offset: int, text: str) -> bytes:
    return document[:offset] + text.encode() + document[offset:]


class _Reader:
    """Expat handlers that find the places for the arguments, as byte offsets in the document."""

    def __init__(self) -> None:
        self.has_monitor = False
        self.has_arguments = False
        self.arguments_end: int | None = None
        """Offset of the end tag of the domain's own arguments; None: it has none, or an element without an end tag."""
        self.domain_end: int | None = None
        self._document = b""
        self._path: list[str] = []
        self._parser: XMLParserType = ParserCreate()

    def read(self, document: bytes) -> None:
        self._document = document
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.Parse(document, True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self.has_arguments |= self._path == _COMMANDLINE
        if self._path[:-1] == _COMMANDLINE and name == "qemu:arg":
            self.has_monitor |= attributes.get("value") == VALUE

    def _end(self, name: str) -> None:
        offset = self._parser.CurrentByteIndex
        # Of an element without an end tag, expat reports what follows it.
        if self._document.startswith(f"</{name}".encode(), offset):
            if self._path == _COMMANDLINE:
                self.arguments_end = offset
            elif self._path == _COMMANDLINE[:1]:
                self.domain_end = offset
        self._path.pop()
