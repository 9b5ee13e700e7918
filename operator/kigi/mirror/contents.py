"""What is known of the content of each layer, and which objects contradict it.

A digest names one file, and the file's header names its parent and its size. Two objects that give one digest different
ones cannot both be right. What a node has verified counts first; then the object that was created first. The others are
errors of themselves, in whatever namespace they are, and their messages tell nothing about the object that counts.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Set
from datetime import UTC, datetime
from typing import NamedTuple

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.tree_names import node_of
from kigi.errors import LayerContradiction
from kigi.mirror.indexed import Store
from kigi.mirror.records import CacheRecord, ImageRecord
from kigi.mirror.references import node_of_image

_LATEST = datetime.max.replace(tzinfo=UTC)


class Content(NamedTuple):
    """What the header of a layer has, by the object or the NodeCache that declares it; sizes in bytes."""

    size_bytes: int
    virtual_size_bytes: int
    parent: Digest | None
    """None: a root."""
    knows_parent: bool = True
    """False: the object's parent does not exist, is invalid, or is in a namespace that shares nothing with its own."""

    def difference(self, other: Content) -> str:
        """The field of a VMImageNode's spec in which it differs from ``other``; empty: none."""
        if self.size_bytes != other.size_bytes:
            return "spec.layer.sizeBytes"
        if self.virtual_size_bytes != other.virtual_size_bytes:
            return "spec.layer.virtualSizeBytes"
        if self.knows_parent and other.knows_parent and self.parent != other.parent:
            return "spec.parentRef"
        return ""


class Contents:
    """``caches_with`` gives the caches that hold a layer; ``shares``: whether a namespace has a grant for another one.

    Without a grant, an error would tell an author whether a digest is the one of an image in a foreign namespace.
    """

    def __init__(
        self,
        images: Store[ImageRecord],
        caches_with: Callable[[Digest], Iterable[CacheRecord]],
        shares: Callable[[str, str], bool],
    ) -> None:
        self._images, self._caches_with, self._shares = images, caches_with, shares

    def contradiction(self, record: ImageRecord) -> LayerContradiction | None:
        """The error of an image that contradicts what is known of its digest. O(objects with the digest)."""
        image = record.image
        if not isinstance(image, Image) or self._images.count("digest", image.digest) < 2:
            return None
        field = self._declared(record).difference(self._known(image.digest))
        if not field:
            return None
        return LayerContradiction(
            f"VMImageNode {record.meta.name}: {field}: it contradicts what is known of the layer {image.digest}; "
            "correct it as the file's header has it, or publish the disk again (kigi publish)"
        )

    def rivals(self, records: Iterable[ImageRecord | None]) -> Iterator[ImageRecord]:
        """Objects with the digests of the images or of their children: what they know may have changed."""
        for digest in {digest for record in records if record is not None for digest in self._concerned(record)}:
            yield from self._images.by("digest", digest)

    def _concerned(self, record: ImageRecord) -> Iterator[Digest]:
        if isinstance(record.image, Image):
            yield record.image.digest
        for child in self._images.by("names", node_of_image(record)):
            if isinstance(child.image, Image):
                yield child.image.digest

    def _known(self, digest: Digest) -> Content:
        first = sorted(self._images.by("digest", digest), key=_age)
        declared = [self._declared(record) for record in first]
        if len(set(declared)) > 1:
            verified = set(self._verified(digest))
            for content in declared:
                if any(not content.difference(each) for each in verified):
                    return content
        return declared[0]

    def _declared(self, record: ImageRecord) -> Content:
        image = record.image
        assert isinstance(image, Image)
        sizes = (image.size_bytes, image.virtual_size_bytes)
        if image.parent is None:
            return Content(*sizes, None)
        home = record.meta.namespace or ""
        node = node_of(kinds.IMAGE, home, image.parent)
        may_know = node.namespace == home or self._shares(node.namespace, home)
        parent = self._images.get(node.namespace, node.name) if may_know else None
        if parent is None or not isinstance(parent.image, Image):
            return Content(*sizes, None, knows_parent=False)
        return Content(*sizes, parent.image.digest)

    def _verified(self, digest: Digest) -> Iterator[Content]:
        """As the NodeCaches declare it whose nodes hold it: a node holds a layer only if its header agrees."""
        for cache in self._caches_with(digest):
            layers = cache.spec.layers if cache.spec is not None else []
            at = bisect.bisect_left(layers, str(digest), key=lambda layer: layer.digest)
            if at < len(layers) and layers[at].digest == digest:
                found = layers[at]
                parent = Digest(found.parent_digest) if found.parent_digest is not None else None
                yield Content(found.size_bytes, found.virtual_size_bytes, parent)


def namespaces_of(records: Iterable[ImageRecord]) -> Set[str]:
    """Namespaces of the images."""
    return {record.meta.namespace or "" for record in records}


def _age(record: ImageRecord) -> tuple[datetime, str]:
    return record.meta.created or _LATEST, record.meta.uid
