"""Small layers in Kigi's form, made without qemu-img, and functions that put them into a store."""

from __future__ import annotations

import hashlib
import struct

from kigi.domain.layers import Digest, Layer
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
