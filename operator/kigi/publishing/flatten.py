"""Merges the upper layers of an image into one: an equal image with a shorter chain."""

from __future__ import annotations

from collections.abc import Sequence

from kigi.adapters.qemu_img import DisksDiffer
from kigi.adapters.s3 import LayerBucket, Progress
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.errors import LayerRefused, SpecInvalid
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.publish import Published, publish_image


def layers_above(path: Sequence[Image], ancestor: str | None) -> Digest | None:
    """Digest of the new layer's parent; None: the new layer is a root.

    ``path``: images from the root to the one to flatten. Raises SpecInvalid if ``ancestor`` is not below the image,
    and if only one layer is above it.
    """
    top = path[-1]
    names = [image.name for image in path]
    if ancestor is None:
        count, below = len(path), None
    elif ancestor in names[:-1]:
        place = names.index(ancestor)
        count, below = len(path) - place - 1, path[place].digest
    else:
        known = ", ".join(names[:-1]) or "none: it is a root"
        raise SpecInvalid(f"--parent: {ancestor} is no ancestor of VMImageNode {top.name}; its ancestors are {known}")
    if count < 2:
        on = f"on {ancestor}" if ancestor else "a root"
        raise SpecInvalid(f"VMImageNode {top.name} is one layer {on} already; there is nothing to flatten")
    return below


async def flatten_image(
    path: Sequence[Image],
    ancestor: str | None,
    folder: LayerFolder,
    repository: LayerBucket,
    progress: Progress = lambda count: None,
) -> Published:
    """Stores the disk of the last image of ``path`` as one layer above ``ancestor``, or as a root.

    Fetches and verifies every layer of the chain. Before anything is sent, ``qemu-img compare`` proves that both chains
    show a guest the same bytes; raises DisksDiffer otherwise, and what ``publish_image`` raises.
    """
    below = layers_above(path, ancestor)
    top = path[-1]
    chain = await folder.chain(top.digest, repository)
    if [layer.digest for layer in chain] != [image.digest for image in path]:
        raise LayerRefused(
            "parent",
            f"VMImageNode {top.name}: the layers' headers name another chain than the tree; no VM can run it either",
        )
    if chain[-1].virtual_size_bytes != top.virtual_size_bytes:
        raise DisksDiffer(
            f"VMImageNode {top.name} is a disk of {top.virtual_size_bytes} bytes by the tree and of "
            f"{chain[-1].virtual_size_bytes} by its layer"
        )
    return await publish_image(
        folder.file(top.digest), folder, repository, parent=below, image_format="qcow2", progress=progress
    )
