"""Digests, layers and chains, and the bytes of sets of layers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import NewType

from kigi.domain.guests import NO_GUEST, Guest

Digest = NewType("Digest", str)
"""SHA-256 of a layer file as stored: ``sha256:`` and 64 lower-case hex digits."""

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
MAX_DEPTH = 64
"""Longest chain, in layers. QEMU opens every file of a chain at start, and a read may pass through all of them."""
MAX_FILE_BYTES = 64 * 2**40
"""Longest layer file."""
TABLES_BYTES = 2**30
"""A layer's tables: it is at most so much longer than its virtual disk."""
DEFAULT_REPOSITORY = "default"
IMAGE_MEDIA_TYPE = "application/vnd.kigi.layer.v1.qcow2"
"""Format of a layer whose descriptor names none."""
LAYER_SUFFIX = ".qcow2"
"""Suffix of a layer's file name."""

_DIGEST = re.compile(DIGEST_PATTERN)
_ANY_DIGEST = re.compile(r"(sha256:)?([0-9a-f]{64})")


def parse_digest(text: str) -> Digest:
    """``text`` as a Digest; ValueError unless it is ``sha256:`` and 64 lower-case hex digits."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"not a layer digest: {text[:80]!r}; expected 'sha256:' and 64 lower-case hex digits")
    return Digest(text)


def digest_hex(digest: Digest) -> str:
    """The 64 hex digits, which also begin the layer's file name."""
    return digest.removeprefix("sha256:")


def digest_of_hex(text: str) -> Digest:
    """The Digest of 64 hex digits; ValueError for anything else."""
    return parse_digest("sha256:" + text)


def layer_file_name(digest: Digest) -> str:
    """Name of the layer's file: ``<hex>.qcow2``. A child's header names its parent's file by it."""
    return digest_hex(digest) + LAYER_SUFFIX


def digest_of_file_name(name: str) -> Digest:
    """The layer whose file has this name; ValueError for any other name."""
    if not name.endswith(LAYER_SUFFIX):
        raise ValueError(f"not the file name of a layer: {name[:80]!r}; expected 64 hex digits and {LAYER_SUFFIX}")
    return digest_of_hex(name.removesuffix(LAYER_SUFFIX))


def hide_digests(text: str, shown: Container[str]) -> str:
    """The text with each digest that is not ``shown`` cut short: who knows a digest can use its layer."""
    return _ANY_DIGEST.sub(lambda found: found[0] if digest_of_hex(found[2]) in shown else f"{found[1] or ''}…", text)


def object_key(digest: Digest) -> str:
    """Key of the layer in its repository (the bucket)."""
    return f"layers/sha256/{digest_hex(digest)}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One differential qcow2 file; ``parent`` None: the root of a chain."""

    digest: Digest
    size_bytes: int
    virtual_size_bytes: int
    parent: Digest | None = None
    repository: str = DEFAULT_REPOSITORY
    guest: Guest = field(default=NO_GUEST, compare=False)
    """Facts about the guest of an image whose top layer this is; no part of the layer's identity."""


Chain = tuple[Layer, ...]
"""Layers of one image: root first, top last, never empty."""


def unique_layers(chains: Iterable[Chain]) -> dict[Digest, Layer]:
    """Every layer of the chains once, in the order of first appearance. O(layers)."""
    layers: dict[Digest, Layer] = {}
    for chain in chains:
        for layer in chain:
            layers.setdefault(layer.digest, layer)
    return layers


def missing_layers(wanted: Mapping[Digest, Layer], held: Set[Digest]) -> dict[Digest, Layer]:
    """The wanted layers that are not held, in the order of ``wanted``: those to fetch."""
    return {digest: layer for digest, layer in wanted.items() if digest not in held}


def total_bytes(layers: Iterable[Layer]) -> int:
    """Sum of the files' sizes in bytes; a layer that occurs twice counts twice."""
    return sum(layer.size_bytes for layer in layers)
