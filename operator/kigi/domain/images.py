"""The image tree: each node is one layer and a reference to its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kigi.domain.guests import NO_GUEST, Guest
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH, Chain, Digest, Layer
from kigi.errors import ChainTooDeep, ImageCycle, ImageMissing, SpecInvalid, VirtualSizeShrinks


@dataclass(frozen=True, slots=True)
class Image:
    """One node of the image tree as its VMImageNode declares it; sizes in bytes."""

    name: str
    digest: Digest
    size_bytes: int
    virtual_size_bytes: int
    parent: str | None = None
    repository: str | None = None
    """LayerRepository that the object names; None: the default of its namespace."""
    guest: Guest = NO_GUEST
    """What the object itself declares."""

    def seen_from(self, rename: Callable[[str], str]) -> Image:
        """The image with the names that another namespace has for it and its parent."""
        return replace(self, name=rename(self.name), parent=rename(self.parent) if self.parent is not None else None)


def image_path(images: Mapping[str, Image], top: str) -> tuple[Image, ...]:
    """Images from the root to ``top``, never empty. O(depth).

    Raises ImageMissing, ImageCycle, ChainTooDeep, VirtualSizeShrinks or SpecInvalid, which name the node.
    """
    path: list[Image] = []
    seen: set[str] = set()
    name: str | None = top
    child: Image | None = None
    architecture: str | None = None
    while name is not None:
        if name in seen:
            raise ImageCycle(f"VMImageNode {name}: spec.parentRef leads back to itself; recreate one node of the cycle")
        image = images.get(name)
        if image is None:
            field = f"VMImageNode {child.name}: spec.parentRef.name" if child else "image"
            raise ImageMissing(f"{field} {name!r} does not exist in this namespace; publish it or correct the name")
        if child is not None and child.virtual_size_bytes < image.virtual_size_bytes:
            raise VirtualSizeShrinks(
                f"VMImageNode {child.name}: spec.layer.virtualSizeBytes {child.virtual_size_bytes} is smaller than "
                f"{image.virtual_size_bytes} of its parent {image.name}; publish it with at least the parent's size"
            )
        if child is not None and image.guest.architecture is not None and architecture is not None:
            _check_architecture(child.name, architecture, image)
        architecture = image.guest.architecture or architecture
        seen.add(name)
        path.append(image)
        if len(path) > MAX_DEPTH:
            raise ChainTooDeep(f"VMImageNode {top}: more than {MAX_DEPTH} layers to the root; flatten an ancestor")
        child, name = image, image.parent
    path.reverse()
    return tuple(path)


def _check_architecture(child: str, architecture: str, image: Image) -> None:
    if image.guest.architecture != architecture:
        raise SpecInvalid(
            f"VMImageNode {child}: spec.guest.architecture {architecture} of it or of a child differs from "
            f"{image.guest.architecture} of its ancestor {image.name}; publish it on an image of its architecture"
        )


def named_repository(image: Image) -> str:
    """The repository that an image names; without a cluster, ``default`` is the default."""
    return image.repository or DEFAULT_REPOSITORY


RepositoryOf = Callable[[Image], str]
"""Name of the repository that has the layer of an image; raises KigiError if the image may not use it."""


def image_chain(images: Mapping[str, Image], top: str, repository_of: RepositoryOf = named_repository) -> Chain:
    """Layers of ``top``, root first. Raises what ``image_path`` and ``repository_of`` raise."""
    return path_layers(image_path(images, top), repository_of)


def path_layers(path: tuple[Image, ...], repository_of: RepositoryOf = named_repository) -> Chain:
    """The layers of a path of images, each with its parent's digest. Raises what ``repository_of`` raises."""
    layers: list[Layer] = []
    parent: Digest | None = None
    guest = NO_GUEST
    for image in path:
        guest = image.guest.above(guest)
        sizes = (image.size_bytes, image.virtual_size_bytes)
        layers.append(Layer(image.digest, *sizes, parent, repository_of(image), guest))
        parent = image.digest
    return tuple(layers)
