"""Initramfs archives: cpio in the "newc" format, with the same bytes for the same entries.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_FILE, _DIRECTORY, _LINK, _CHARACTER = 0o100000, 0o040000, 0o120000, 0o020000


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of the archive; ``path`` is relative, and a folder must precede its content."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, path: str, data: bytes, mode: int = 0o644) -> Node:
        """A regular file."""
        return cls(path, _FILE | mode, data)

    @classmethod
    def directory(cls, path: str) -> Node:
        """A directory."""
        return cls(path, _DIRECTORY | 0o755)

    @classmethod
    def link(cls, path: str, target: str) -> Node:
        """A symbolic link."""
        return cls(path, _LINK | 0o777, target.encode())

    @classmethod
    def character(cls, path: str, major: int, minor: int) -> Node:
        """A character device, such as /dev/console, which init needs before it mounts anything."""
        return cls(path, _CHARACTER | 0o600, device=(major, minor))


def archive(nodes: Iterable[Node]) -> bytes:
    """Uncompressed archive of the entries; all are owned by root and dated 1970."""
    parts: list[bytes] = []
    for inode, node in enumerate((*nodes, Node("TRAILER!!!", 0)), start=1):
        name = node.path.encode() + b"\0"
        fields = (inode, node.mode, 0, 0, 1, 0, len(node.data), 0, 0, *node.device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
        parts += [head, b"\0" * (-len(head) % 4), node.data, b"\0" * (-len(node.data) % 4)]
    return b"".join(parts)
