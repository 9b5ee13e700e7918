"""Checks that a file is the layer of its digest: size, SHA-256 and qcow2 header."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi.domain.qcow2 import HEADER_BYTES, check_layer
from kigi.errors import LayerCorrupt, LayerRefused

CHUNK_BYTES = 4 * 2**20
_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP, errno.EISDIR, errno.ENXIO}
"""Errors that persist however often the file is read: a bad disk; a link, directory or socket in the layer's place."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The whole content of a file: ``found`` is its stat before it was read, ``header`` its first HEADER_BYTES."""

    found: os.stat_result
    sha256: str
    header: bytes


def read_whole(path: Path, on_read: Callable[[int], None]) -> Reading:
    """Read a file from its first byte to its last; ``on_read`` gets the size of each piece, and may block.

    Raises LayerCorrupt if it is not a regular file or the disk cannot read it, and other OSErrors as they are.
    """
    sha, header = hashlib.sha256(), b""
    try:
        # O_NONBLOCK: opening a pipe of that name would block until a writer opens it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise LayerCorrupt(f"{path} is not a regular file")
            while chunk := file.read(CHUNK_BYTES):
                header = header or chunk[:HEADER_BYTES]
                sha.update(chunk)
                on_read(len(chunk))
    except OSError as exc:
        if exc.errno not in _DAMAGE:
            raise
        raise LayerCorrupt(f"{path} cannot be read: {exc.strerror}") from exc
    return Reading(found, sha.hexdigest(), header)


def check_content(expected: Layer | Digest, size_bytes: int, sha256: str, header: bytes) -> None:
    """Raise LayerCorrupt (size or digest) or LayerRefused (header) unless the content is the expected layer's.

    Of a Digest alone, only the digest is checked.
    """
    digest = expected.digest if isinstance(expected, Layer) else expected
    if isinstance(expected, Layer) and size_bytes != expected.size_bytes:
        raise LayerCorrupt(f"layer {digest}: {size_bytes} bytes instead of {expected.size_bytes}")
    if sha256 != digest_hex(digest):
        raise LayerCorrupt(f"layer {digest}: its bytes have the digest sha256:{sha256}")
    if isinstance(expected, Layer):
        check_declared(expected, size_bytes, header)


def check_declared(layer: Layer, size_bytes: int, header: bytes) -> None:
    """Raise LayerRefused unless size and header of a file with the layer's digest are as declared."""
    if size_bytes != layer.size_bytes:
        raise LayerRefused(
            "size", f"layer {layer.digest}: {size_bytes} bytes instead of {layer.size_bytes} as declared"
        )
    check_layer(
        header,
        digest=layer.digest,
        parent=layer.parent,
        virtual_size_bytes=layer.virtual_size_bytes,
        size_bytes=size_bytes,
    )
