"""Garbage is deleted only while nothing names it, and a deletion that came too early is reported."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

import pytest

from kigi.adapters.s3 import LayerBucket
from kigi.cli.collection import BATCH, check_unnamed, delete_garbage, find_garbage
from kigi.domain.collection import Upload
from kigi.domain.layers import Digest, object_key
from kigi.errors import LayerMissing
from tests.support.memory_repository import NOW, MemoryRepository

DAY = timedelta(days=1)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


class World:
    """A repository with layers that are two days old; ``names``: what each reading of the trees returns."""

    def __init__(self, layers: int, *names: Iterable[int]) -> None:
        self.repository = MemoryRepository()
        for number in range(layers):
            self.repository.store(digest(number), b"x" * 100, 2 * DAY)
        self.names = [set(map(digest, each)) for each in names]
        self.readings = 0

    async def read_named(self) -> set[Digest]:
        self.readings += 1
        return self.names.pop(0) if len(self.names) > 1 else self.names[0]

    async def collect(self) -> dict[str, Any]:
        store, done = cast(LayerBucket, self.repository), dict[str, Any](deleted=[])
        found = await find_garbage(store, self.read_named, DAY)
        await delete_garbage(store, found, self.read_named, done)
        await check_unnamed(store, done["deleted"], self.read_named)
        return done


async def test_unnamed_layers_are_deleted_and_counted() -> None:
    world = World(3, {1})
    assert await world.collect() == {"deleted": [digest(0), digest(2)], "deletedBytes": 200, "uploadsGivenUp": 0}
    assert set(world.repository.layers) == {digest(1)}


async def test_the_trees_are_read_before_each_batch() -> None:
    world = World(2 * BATCH + 1, ())
    assert len((await world.collect())["deleted"]) == 2 * BATCH + 1
    assert world.readings == 1 + 3 + 1


async def test_a_layer_that_is_named_before_its_batch_stays() -> None:
    world = World(3, (), {1})
    assert (await world.collect())["deleted"] == [digest(0), digest(2)]


async def test_a_layer_that_is_stored_again_stays() -> None:
    world = World(2, ())
    store = cast(LayerBucket, world.repository)
    found = await find_garbage(store, world.read_named, DAY)
    world.repository.store(digest(0), b"x" * 100)
    done: dict[str, Any] = {}
    await delete_garbage(store, found, world.read_named, done)
    assert done["deleted"] == [digest(1)]


async def test_a_layer_that_is_named_while_it_is_deleted_is_reported() -> None:
    world = World(3, (), (), {1})
    with pytest.raises(LayerMissing, match=f"publish these again: {digest(1)}$"):
        await world.collect()


async def test_a_layer_that_is_stored_again_after_its_deletion_is_not_reported() -> None:
    world = World(1, {0})
    store = cast(LayerBucket, world.repository)
    await check_unnamed(store, [digest(0)], world.read_named)


async def test_old_uploads_are_given_up() -> None:
    world = World(0, ())
    old, young = (Upload(object_key(digest(n)), str(n), NOW - age) for n, age in enumerate((2 * DAY, timedelta())))
    world.repository.unfinished = [old, young]
    assert (await world.collect())["uploadsGivenUp"] == 1
    assert world.repository.unfinished == [young]
