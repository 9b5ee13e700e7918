"""Finds and deletes the layers of a repository that nothing names.

The trees are read again before the decision, before each batch of deletions, and after the last. One case remains: a
layer that was stored long ago is named for the first time while its batch is deleted. The last reading finds it, and
the error names what to publish again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

from kigi.adapters.s3 import LayerBucket
from kigi.domain.collection import Collection, layer_of, plan_collection
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
    """Deletes what was found and is still unnamed; keeps ``deleted`` and ``freedBytes`` of ``done`` up to date.

    ``advance`` gets 1 for each layer. ``check_unnamed`` must follow.
    """
    for upload in found.uploads:
        await store.abort(upload)
    deleted: set[Digest] = set()
    freed = 0
    for start in range(0, len(found.layers), BATCH):
        named = await read_named()
        for item in found.layers[start : start + BATCH]:
            digest = layer_of(item.key)
            if digest is not None and digest not in named and await store.remove(item):
                deleted.add(digest)
                freed += item.size_bytes
                done.update(deleted=sorted(deleted), freedBytes=freed)
            advance(1)
    done["uploadsGivenUp"] = len(found.uploads)


async def check_unnamed(store: LayerBucket, deleted: Iterable[Digest], read_named: ReadNamed) -> None:
    """Raises LayerMissing if a tree began to name one of these layers while it was deleted."""
    named = sorted(set(deleted) & await read_named())
    lost = [digest for digest in named if await store.size_of(digest) is None]
    if lost:
        raise LayerMissing(f"named by a tree while they were deleted, so publish these again: {', '.join(lost)}")
