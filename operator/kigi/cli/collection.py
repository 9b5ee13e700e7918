"""Finds and deletes the layers of a repository that nothing names.

The trees are read again before the decision, before each batch of deletions, and after the last. One case remains: a
layer that was stored long ago is named for the first time while its batch is deleted. The last reading finds it, and
the error names what to publish again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Set
from datetime import timedelta
from typing import Any

from kigi.adapters.s3 import LayerBucket
from kigi.domain.collection import Collection, StoredVersion, layer_of, left_versions, plan_collection
from kigi.domain.layers import Digest
from kigi.errors import LayerMissing

BATCH = 50
"""Deletions between two readings of the trees: a few seconds."""

ReadNamed = Callable[[], Awaitable[set[Digest]]]
"""Reads every digest that must stay, as of now."""


async def find_garbage(store: LayerBucket, read_named: ReadNamed, grace: timedelta) -> Collection:
    """What may be deleted. ``grace``: age by the repository's clock below which an unnamed layer stays."""
    # The bucket is listed before the trees: a layer that a tree names after this is in the listing, or it is young.
    objects, now = await store.objects()
    uploads = await store.uploads()
    return plan_collection(objects, uploads, await read_named(), now, grace)


async def delete_garbage(
    store: LayerBucket,
    found: Collection,
    read_named: ReadNamed,
    done: dict[str, Any],
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Deletes what was found and is still unnamed; keeps ``deleted`` and ``deletedBytes`` of ``done`` up to date.

    ``advance`` gets 1 for each layer. ``check_unnamed`` must follow.
    """
    for upload in found.uploads:
        await store.abort(upload)
    deleted: set[Digest] = set()
    removed_bytes = 0
    for start in range(0, len(found.layers), BATCH):
        named = await read_named()
        for item in found.layers[start : start + BATCH]:
            digest = layer_of(item.key)
            if digest is not None and digest not in named and await store.remove(item):
                deleted.add(digest)
                removed_bytes += item.size_bytes
                done.update(deleted=sorted(deleted), deletedBytes=removed_bytes)
            advance(1)
    done["uploadsGivenUp"] = len(found.uploads)


async def find_versions(
    store: LayerBucket, doomed: Set[str], read_named: ReadNamed, grace: timedelta
) -> tuple[StoredVersion, ...]:
    """Versions and delete markers that remain of layers when the keys ``doomed`` have no object any more."""
    # The bucket is listed before the trees, as in ``find_garbage``.
    objects, now = await store.objects()
    versions = await store.versions()
    current = {item.key for item in objects} - doomed
    return left_versions(versions, current, await read_named(), now, grace, doomed)


async def delete_versions(
    store: LayerBucket, versions: Iterable[StoredVersion], read_named: ReadNamed, done: dict[str, Any]
) -> None:
    """Deletes these versions for good, but those of layers that a tree names or that have an object again.

    If one of a layer is refused, the later ones stay: without its delete marker the layer would be there again. Keeps
    ``versionsDeleted``, ``versionsRefused`` and ``freedBytes`` of ``done`` up to date.
    """
    pending, kept = list(versions), set[str]()
    for start in range(0, len(pending), BATCH):
        named = await read_named()
        current = {item.key for item in (await store.objects())[0]}
        for version in pending[start : start + BATCH]:
            if layer_of(version.key) in named or version.key in current or version.key in kept:
                continue
            if await store.remove_version(version):
                done["versionsDeleted"] += 1
                done["freedBytes"] += version.size_bytes
            else:
                kept.add(version.key)
                done["versionsRefused"] += 1


async def check_unnamed(store: LayerBucket, deleted: Iterable[Digest], read_named: ReadNamed) -> None:
    """Raises LayerMissing if a tree began to name one of these layers while it was deleted."""
    named = sorted(set(deleted) & await read_named())
    lost = [digest for digest in named if await store.size_of(digest) is None]
    if lost:
        raise LayerMissing(f"named by a tree while they were deleted, so publish these again: {', '.join(lost)}")
