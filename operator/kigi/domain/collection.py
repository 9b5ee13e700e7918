"""Garbage collection of a repository: selects the objects to delete from two listings and the server's time."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from kigi.domain.layers import Digest, digest_of_hex, object_key

LAYERS_PREFIX = "layers/sha256/"
"""Prefix of every layer's key; objects without it are not listed."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of the bucket; ``modified`` is the server's time."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of an object in a bucket that keeps them, or a delete marker, which has no bytes."""

    key: str
    version_id: str
    size_bytes: int
    modified: datetime
    is_marker: bool = False


@dataclass(frozen=True, slots=True)
class Upload:
    """One unfinished multipart upload; ``started`` is the server's time."""

    key: str
    upload_id: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Collection:
    """The objects to delete, and the numbers of those that stay, by reason."""

    layers: tuple[StoredObject, ...]
    """Layers that no tree names, older than the grace period; sorted by key."""
    uploads: tuple[Upload, ...]
    """Uploads begun before the grace period; sorted by key."""
    named: int
    """Number of layers that a tree names."""
    young: int
    """Number of other layers that were stored, or began to be uploaded, within the grace period."""
    foreign: int
    """Number of objects whose key is not that of a layer; they stay."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the layers to delete."""
        return sum(item.size_bytes for item in self.layers)


def plan_collection(
    objects: Iterable[StoredObject], uploads: Iterable[Upload], named: Set[Digest], now: datetime, grace: timedelta
) -> Collection:
    """Selects what to delete. ``named``: every digest of every chain of any tree; ``now``: the server's time.

    A layer is deleted only if no tree names it, it was stored before the grace period, and no upload of it is running.
    """
    uploading = list(uploads)
    begun = {upload.key for upload in uploading if now - upload.started < grace}
    unneeded: list[StoredObject] = []
    kept = young = foreign = 0
    for item in objects:
        digest = layer_of(item.key)
        if digest is None:
            foreign += 1
        elif digest in named:
            kept += 1
        elif now - item.modified < grace or item.key in begun:
            young += 1
        else:
            unneeded.append(item)
    stale = [upload for upload in uploading if now - upload.started >= grace and layer_of(upload.key) is not None]
    return Collection(
        tuple(sorted(unneeded, key=lambda item: item.key)),
        tuple(sorted(stale, key=lambda upload: (upload.key, upload.upload_id))),
        kept,
        young,
        foreign,
    )


def left_versions(
    versions: Iterable[StoredVersion],
    current: Set[str],
    named: Set[Digest],
    now: datetime,
    grace: timedelta,
    doomed: Set[str] = frozenset(),
) -> tuple[StoredVersion, ...]:
    """Versions and delete markers of layers without an object, in the order in which they may go: markers last.

    ``current``: keys that have an object. Of these nothing goes, as an old version may be all that is left of a layer
    that was replaced. A layer that a tree names, or that was deleted within the grace period, keeps its versions, too;
    the grace period of ``doomed`` keys is over.
    """
    by_key: dict[str, list[StoredVersion]] = {}
    for version in versions:
        by_key.setdefault(version.key, []).append(version)
    found: list[StoredVersion] = []
    for key, of_key in by_key.items():
        digest = layer_of(key)
        is_old = key in doomed or all(now - version.modified >= grace for version in of_key)
        if digest is not None and key not in current and digest not in named and is_old:
            found += of_key
    return tuple(sorted(found, key=lambda version: (version.key, version.is_marker, version.modified)))


def layer_of(key: str) -> Digest | None:
    """The layer of a key; None if the key is not that of a layer."""
    try:
        digest = digest_of_hex(key.removeprefix(LAYERS_PREFIX))
    except ValueError:
        return None
    return digest if object_key(digest) == key else None
