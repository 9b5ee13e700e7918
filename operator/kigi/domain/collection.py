"""Which objects of a repository nothing needs: the decision of ``kigi gc``, made from two listings and a clock."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from kigi.domain.layers import Digest, digest_of_hex, object_key

LAYERS_PREFIX = "layers/sha256/"
"""Of every layer's key; no other object is ever looked at."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of the bucket; ``modified`` by the server's clock."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """One unfinished multipart upload; ``started`` by the server's clock."""

    key: str
    upload_id: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Collection:
    """What may go, and how much stays for which reason."""

    layers: tuple[StoredObject, ...]
    """Unnamed and older than the grace period; by key."""
    uploads: tuple[Upload, ...]
    """Unfinished for longer than the grace period; by key."""
    named: int
    """Layers that a tree names."""
    young: int
    """Layers that nothing names yet, stored or being stored within the grace period."""
    foreign: int
    """Objects that are no layers by their name; never touched."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the layers that may go."""
        return sum(item.size_bytes for item in self.layers)


def plan_collection(
    objects: Iterable[StoredObject], uploads: Iterable[Upload], named: Set[Digest], now: datetime, grace: timedelta
) -> Collection:
    """What nothing needs. ``named``: every digest of every chain that any tree has; ``now``: the server's time.

    A layer goes only if no tree names it, it was stored before the grace period, and nobody is storing it again.
    """
    uploading = list(uploads)
    begun = {upload.key for upload in uploading if now - upload.started < grace}
    doomed: list[StoredObject] = []
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
            doomed.append(item)
    stale = [upload for upload in uploading if now - upload.started >= grace and layer_of(upload.key) is not None]
    return Collection(
        tuple(sorted(doomed, key=lambda item: item.key)),
        tuple(sorted(stale, key=lambda upload: (upload.key, upload.upload_id))),
        kept,
        young,
        foreign,
    )


def layer_of(key: str) -> Digest | None:
    """The layer of a key; None for any other object."""
    try:
        digest = digest_of_hex(key.removeprefix(LAYERS_PREFIX))
    except ValueError:
        return None
    return digest if object_key(digest) == key else None
