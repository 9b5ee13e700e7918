"""Exported subtrees: the form of the file, and the checks of its manifest.

The file is a tar with ``manifest.json`` and then the layers as ``layers/<hex>.qcow2``, in the order of the manifest. It
has nothing else: no folders, links, long names or sparse files. So a reader needs only 512 bytes of memory for headers.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from kigi.domain.images import Image, image_chain, image_path
from kigi.domain.layers import Digest, layer_file_name
from kigi.domain.systems import System, resolve_system, system_path
from kigi.domain.usage import images_of
from kigi.errors import ArchiveRefused, KigiError

FORMAT = "kigi.dev/export-1"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
"""About 100,000 nodes."""
BLOCK = 512
"""Unit of a tar: each header and each content begins at a multiple of it."""
END = bytes(2 * BLOCK)


def member_name(digest: Digest) -> str:
    """Name of a layer in the file."""
    return f"layers/{layer_file_name(digest)}"


def member_header(name: str, size_bytes: int) -> bytes:
    """Header of one member; equal arguments give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o444
    return info.tobuf(tarfile.GNU_FORMAT)


def padding(size_bytes: int) -> int:
    """Number of zero bytes after a member's content."""
    return -size_bytes % BLOCK


def expect_member(header: bytes, name: str, size_bytes: int | None) -> int:
    """Size of the member with this header. Raises ArchiveRefused unless it is a plain file of that name and size."""
    if header != END[:BLOCK] and len(header) == BLOCK:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.TarError, ValueError) as exc:
            raise ArchiveRefused(f"where {name} should begin is no tar header: {exc}") from exc
        if info.name != name or info.type != tarfile.REGTYPE or info.linkname:
            raise ArchiveRefused(f"it has {info.name[:80]!r} where {name} should be, or not as a plain file")
        if size_bytes is not None and info.size != size_bytes:
            raise ArchiveRefused(f"{name} has {info.size} bytes instead of {size_bytes}")
        return info.size
    raise ArchiveRefused(f"it ends where {name} should be")


@dataclass(frozen=True, slots=True)
class DeclaredLayer:
    """A layer as the images of a manifest declare it."""

    digest: Digest
    size_bytes: int
    virtual_size_bytes: int
    parent: Digest | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Names of the nodes of a subtree, parents first."""

    images: tuple[str, ...]
    systems: tuple[str, ...]


def select(
    images: Mapping[str, Image], systems: Mapping[str, System], *, state: str | None, image: str | None, children: bool
) -> Selection:
    """A state or an image with all that it depends on; with ``children``, its descendants as well.

    Raises what ``image_path`` and ``system_path`` raise.
    """
    chosen: dict[str, int] = {}
    tops = {image} if image is not None else set[str]()
    if state is not None:
        states = {state, *(_descendants(systems, state) if children else ())}
        for path in (system_path(systems, name) for name in states):
            chosen.update({each.name: place for place, each in enumerate(path)})
        tops |= {named for name in chosen for named in images_of(systems[name])}
    elif image is not None and children:
        tops |= _descendants(images, image)
    needed: dict[str, int] = {}
    for top in sorted(tops):
        needed.update({each.name: place for place, each in enumerate(image_path(images, top))})
    return Selection(
        tuple(sorted(needed, key=lambda name: (needed[name], name))),
        tuple(sorted(chosen, key=lambda name: (chosen[name], name))),
    )


def _descendants(nodes: Mapping[str, Image] | Mapping[str, System], top: str) -> set[str]:
    """Every descendant of ``top``. O(nodes x depth)."""
    found: set[str] = set()
    growing = {top}
    while growing:
        growing = {name for name, node in nodes.items() if node.parent in growing and name not in found}
        found |= growing
    return found


def declared_layers(
    images: Mapping[str, Image], systems: Mapping[str, System], max_depth: int
) -> dict[Digest, DeclaredLayer]:
    """Every layer of the manifest's images. Raises ArchiveRefused unless both trees are complete.

    Each image's chain must reach a root within ``max_depth``, each state must resolve with these images, and images
    with the same digest must declare the same layer.
    """
    layers: dict[Digest, DeclaredLayer] = {}
    try:
        for name, image in images.items():
            path = image_path(images, name)
            if len(path) > max_depth:
                raise ArchiveRefused(
                    f"image {name} has a chain of {len(path)} layers, and the repository takes {max_depth} (maxDepth); "
                    "shorten it with 'kigi flatten' where it comes from"
                )
            parent = path[-2].digest if len(path) > 1 else None
            layer = DeclaredLayer(image.digest, image.size_bytes, image.virtual_size_bytes, parent)
            if layers.setdefault(image.digest, layer) != layer:
                raise ArchiveRefused(f"image {name}: its layer {image.digest} is described in two ways")

        for name in systems:
            resolve_system(systems, lambda image: image_chain(images, image), name)
    except ArchiveRefused:
        raise
    except KigiError as exc:
        raise ArchiveRefused(f"{MANIFEST}: {exc}") from exc
    return layers
