"""Small layers in Kigi's form, made without qemu-img, and functions that put them into a store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

from kigi.domain.layers import Digest, Layer
from kigi_cache.layers.records import Fingerprint
from kigi_cache.layers.store import Store

VIRTUAL_BYTES = 2**20


def content(number: int) -> bytes:
    """A root layer: a header, empty tables, and a cluster that distinguishes it from others."""
    header = struct.pack(
        ">IIQIIQIIQQIIQQQQII",
        *(0x514649FB, 3, 0, 0, 16, VIRTUAL_BYTES, 0, 1, 0x30000, 0x10000, 1, 0, 0, 0, 0, 0, 4, 104),
    )
    return header.ljust(0x30000, b"\0") + number.to_bytes(8, "big")


def layer_of(data: bytes) -> Layer:
    """The layer with these bytes."""
    return Layer(Digest("sha256:" + hashlib.sha256(data).hexdigest()), len(data), VIRTUAL_BYTES)


def commit(store: Store, number: int) -> Layer:
    """Put the layer with ``content(number)`` into the store; it is held, but not persisted."""
    data = content(number)
    layer = layer_of(data)
    store.part_path(layer.digest).write_bytes(data)
    store.commit(layer, hashlib.sha256(data).hexdigest())
    return layer


def rot(store: Store, digest: Digest, offset: int = -1) -> None:
    """Change a byte as a bad disk does: without a trace in the file's stat, which no system call can do."""
    path = store.path(digest)
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store._records.verified[digest] = Fingerprint.of(path.stat())


def forget_state(root: Path) -> None:
    """The store's records are lost, as after a crash of an earlier version."""
    for name in ("state.json", "state.recent.json"):
        (root / name).unlink(missing_ok=True)


def without_records(root: Path, other: Path) -> Path:
    """A second root with the layers of the first and no records, which a store of the first may still write."""
    shutil.copytree(root / "layers", other / "layers")
    return other


def saved_state(root: Path) -> dict[str, object]:
    """The newest records on the disk."""
    found: dict[str, object] = json.loads((root / "state.recent.json").read_text())
    return found
