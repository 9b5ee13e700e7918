"""The image tree: each node is one layer and a reference to its parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer
from kigi.errors import ChainTooDeep, ImageCycle, ImageMissing, VirtualSizeShrinks


@dataclass(frozen=True, slots=True)
class Image:
    """One node of the image tree as its VMImageNode declares it; sizes in bytes."""

    name: str
    digest: Digest
    size_bytes: int
    virtual_size_bytes: int
    parent: str | None = None
    repository: str = "default"


def image_path(images: Mapping[str, Image], top: str) -> tuple[Image, ...]:
    """Images from the root to ``top``, never empty. O(depth).

    Raises ImageMissing, ImageCycle, ChainTooDeep or VirtualSizeShrinks, which name the node with the error.
    """
    path: list[Image] = []
    seen: set[str] = set()
    name: str | None = top
    child: Image | None = None
    while name is not None:
        if name in seen:
            raise ImageCycle(f"VMImageNode {name}: spec.parent leads back to itself; recreate one node of the cycle")
        image = images.get(name)
        if image is None:
            field = f"VMImageNode {child.name}: spec.parent.name" if child else "image"
            raise ImageMissing(f"{field} {name!r} does not exist in this namespace; publish it or correct the name")
        if child is not None and child.virtual_size_bytes < image.virtual_size_bytes:
            raise VirtualSizeShrinks(
                f"VMImageNode {child.name}: spec.layer.virtualSizeBytes {child.virtual_size_bytes} is smaller than "
                f"{image.virtual_size_bytes} of its parent {image.name}; publish it with at least the parent's size"
            )
        seen.add(name)
        path.append(image)
        if len(path) > MAX_DEPTH:
            raise ChainTooDeep(f"VMImageNode {top}: more than {MAX_DEPTH} layers to the root; flatten an ancestor")
        child, name = image, image.parent
    path.reverse()
    return tuple(path)


def image_chain(images: Mapping[str, Image], top: str) -> Chain:
    """Layers of ``top``, root first. Raises what ``image_path`` raises."""
    return path_layers(image_path(images, top))


def path_layers(path: tuple[Image, ...]) -> Chain:
    """The layers of a path of images, each with its parent's digest."""
    layers: list[Layer] = []
    parent: Digest | None = None
    for image in path:
        layers.append(Layer(image.digest, image.size_bytes, image.virtual_size_bytes, parent, image.repository))
        parent = image.digest
    return tuple(layers)
