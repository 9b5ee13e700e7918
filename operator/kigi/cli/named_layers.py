"""The layers that must stay in a repository: every digest that a cluster's objects or a list name.

A digest counts for every repository, wherever its layer is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kigi.adapters.kubernetes.resources import CAPTURE, IMAGE, NODE_CACHE, VOLUME
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.exit_codes import OptionInvalid
from kigi.domain.images import Image
from kigi.domain.layers import MAX_DEPTH, Digest, parse_digest
from kigi.domain.tree_names import place_of
from kigi.errors import LayerNotInRepository, SpecInvalid, StatusInvalid

if TYPE_CHECKING:
    from kigi.adapters.s3 import LayerBucket
    from kigi.api.capture import CapturedDisk
    from kigi.mirror.store import Mirror


@dataclass(frozen=True, slots=True)
class Sources:
    """The clusters and lists that name layers."""

    access: Access
    clusters: Sequence[Path] = ()
    """Kubeconfigs of further clusters."""
    keep_files: Sequence[Path] = ()
    """Lists of digests, one per line."""

    def check(self) -> None:
        """Raises OptionInvalid for a kubeconfig that does not exist."""
        for path in self.clusters:
            if not path.is_file():
                raise OptionInvalid(f"--also: {path} is no file")


async def read_named_layers(store: LayerBucket, sources: Sources) -> set[Digest]:
    """Every digest that an image's chain, a disk, a cache, a capture or a list names; raises KigiError.

    Costs a listing of four kinds per cluster, and a request for each layer whose parents have no image.
    """
    named = {digest for path in sources.keep_files for digest in read_digests(path)}
    for access in (sources.access, *(Access(str(path)) for path in sources.clusters)):
        mirror = _read(access)
        named.update(_named_by(mirror))
        for digest in _without_parents(mirror):
            named.update(await _ancestors(store, digest))
    return named


def _read(access: Access) -> Mirror:
    with open_cluster(access) as kube:
        if kube.get(IMAGE, None, "") is None:
            raise SpecInvalid(f"{access.kubeconfig or 'the cluster'} does not have Kigi's kinds; is it the right one?")
        return read_mirror(kube, (IMAGE, VOLUME, NODE_CACHE, CAPTURE), optional=())


def _named_by(mirror: Mirror) -> Iterator[Digest]:
    for image in mirror.images:
        if not isinstance(image.image, Image):
            raise image.image
        yield image.image.digest
        for text in (image.status.chain if image.status else None) or ():
            yield parse_digest(text)
    for volume in mirror.volumes:
        yield from (layer.digest for layer in volume.chain)
    for cache in mirror.caches:
        if cache.spec is not None:
            yield from (Digest(layer.digest) for layer in cache.spec.layers)
            yield from (Digest(order.parent_digest) for order in cache.spec.captures)
    for disk in _captured(mirror):  # stored, and not named by an image yet
        if disk.digest is not None:
            yield parse_digest(disk.digest)


def _captured(mirror: Mirror) -> Iterator[CapturedDisk]:
    """Disks of captures that did not fail: images name their layers, or will."""
    for capture in mirror.captures:
        if isinstance(capture.progress, StatusInvalid):
            raise capture.progress
        if capture.progress.end != "Failed":
            yield from capture.progress.disks


def _without_parents(mirror: Mirror) -> Iterator[Digest]:
    """Layers whose parents no image names any more: only the headers in the repository name their chain."""
    known = {record.image.digest for record in mirror.images if isinstance(record.image, Image)}
    for cache in mirror.caches:
        for order in cache.spec.captures if cache.spec is not None else ():
            if order.parent_digest not in known:
                yield parse_digest(order.parent_digest)
    for record in mirror.images:
        image = record.image
        if not isinstance(image, Image) or image.parent is None:
            continue
        if mirror.images.get(*place_of(record.meta.namespace or "", image.parent)) is None:
            yield image.digest


async def _ancestors(store: LayerBucket, digest: Digest) -> set[Digest]:
    """The layer and its ancestors by the headers of the stored files, until the root or a layer that is not stored."""
    from kigi.publishing.layer_folder import parent_in_header

    found: set[Digest] = set()
    current: Digest | None = digest
    while current is not None and current not in found and len(found) <= MAX_DEPTH:
        found.add(current)
        try:
            current = parent_in_header(current, await store.head(current))
        except LayerNotInRepository:
            current = None
    return found


def read_digests(path: Path) -> list[Digest]:
    """Digests of a file, one per line; empty lines and lines that begin with # are skipped. Raises SpecInvalid."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
        return [parse_digest(line) for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError) as exc:
        raise SpecInvalid(f"{path}: {exc}") from exc
