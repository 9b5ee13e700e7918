"""Layers in parts on a real S3 server: joined only if the parts are that layer, and never in place of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters import s3_join
from kigi.adapters.s3 import open_repository
from kigi.adapters.s3_client import open_client
from kigi.adapters.s3_join import join_parts
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, object_key
from kigi.errors import AccessDenied, LayerCorrupt, RepositoryUnreachable
from kigi_cache.captures.uploads import MadeLayer, cut, send_layer
from localcluster.s3 import READER, S3Server
from tests.support.uploads import layer_file, signed, writer_of

MIB = 2**20
MOST = 5 * MIB
"""The least size of a part, other than the last, that S3 takes."""


@pytest.fixture
def writer(s3: S3Server, bucket: str) -> Repository:
    return writer_of(s3, bucket).model_copy(update={"max_put_bytes": MOST})


def large(folder: Path, size: int = 12 * MIB) -> MadeLayer:
    return cut(layer_file(folder, bytes(range(251)) * (size // 251) + b"x" * (size % 251)), MOST)


async def send_parts(layer: MadeLayer, writer: Repository) -> None:
    for part in layer.pieces:
        assert await send_layer(part, signed(writer, part.digest, part.size_bytes), None, lambda count: None)


def digests(layer: MadeLayer) -> list[Digest]:
    return [part.digest for part in layer.pieces]


def keys(s3: S3Server, bucket: str) -> set[str]:
    return {f"layers/sha256/{path.name}" for path in (s3.data / bucket / "layers" / "sha256").iterdir()}


async def unfinished(writer: Repository) -> list[str]:
    async with open_repository(writer) as store:
        return [upload.key for upload in await store.uploads()]


@pytest.mark.parametrize("size", [MOST + 1, 10 * MIB, 12 * MIB])
async def test_a_layer_in_parts_becomes_one_object_that_readers_recognize(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, size: int
) -> None:
    layer = large(tmp_path, size)
    assert [part.size_bytes for part in layer.pieces] == [MOST] * (size // MOST) + (
        [size % MOST] if size % MOST else []
    )
    await send_parts(layer, writer)
    await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
    assert (s3.data / bucket / object_key(layer.digest)).read_bytes() == layer.path.read_bytes()
    await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
    s3.grant_reading(bucket)
    reader = writer.model_copy(update={"access_key_id": READER.access_key, "secret_access_key": READER.secret_key})
    async with open_repository(reader) as store:
        assert await store.is_stored(layer.path, layer.digest)
    assert await unfinished(writer) == []


async def test_parts_that_are_another_layer_are_not_joined(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path
) -> None:
    """A stolen node reports a digest that it wants to occupy, and stores parts of its own."""
    victim, own = layer_file(tmp_path, b"what a tenant will publish" * MIB), large(tmp_path)
    await send_parts(own, writer)
    good = digests(own)
    for parts in (good, good[::-1], good[:1], [*good, good[0]], []):
        for digest in (victim.digest, own.digest):
            if (digest, parts) != (own.digest, good):
                with pytest.raises(LayerCorrupt, match="the parts that the node has stored are not layer"):
                    await join_parts(writer, None, digest, own.size_bytes, parts)
    with pytest.raises(LayerCorrupt):
        await join_parts(writer, None, own.digest, own.size_bytes - 1, good)
    assert keys(s3, bucket) == {object_key(part) for part in good}
    assert await unfinished(writer) == []


async def test_a_part_that_is_missing_is_an_error_of_this_attempt(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path
) -> None:
    layer = large(tmp_path)
    for number, part in enumerate(layer.pieces, start=1):
        with pytest.raises(RepositoryUnreachable, match=f"part {number} of 3 of layer {layer.digest} is not stored"):
            await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
        assert await send_layer(part, signed(writer, part.digest, part.size_bytes), None, lambda count: None)
    await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
    assert object_key(layer.digest) in keys(s3, bucket)


class Paused:
    """A client whose server never ends the copy of a part."""

    def __init__(self, client: Any, begun: asyncio.Event) -> None:
        self._client, self._begun = client, begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def upload_part_copy(self, **_: Any) -> None:
        self._begun.set()
        await asyncio.Event().wait()


async def test_a_join_that_is_cancelled_leaves_nothing_and_another_operator_makes_the_layer(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, begun = large(tmp_path), asyncio.Event()
    await send_parts(layer, writer)

    @asynccontextmanager
    async def paused(*arguments: Any, **options: Any) -> AsyncIterator[Paused]:
        async with open_client(*arguments, **options) as client:
            yield Paused(client, begun)

    with monkeypatch.context() as patch:
        patch.setattr(s3_join, "open_client", paused)
        task = asyncio.create_task(join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer)))
        await begun.wait()
        assert await unfinished(writer) == [object_key(layer.digest)]
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert await unfinished(writer) == []
    await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
    assert object_key(layer.digest) in keys(s3, bucket)


async def test_a_stored_object_is_never_replaced(s3: S3Server, bucket: str, writer: Repository, tmp_path: Path) -> None:
    layer = large(tmp_path)
    await send_parts(layer, writer)
    s3._client().put_object(Bucket=bucket, Key=object_key(layer.digest), Body=b"other")  # type: ignore[attr-defined]
    await join_parts(writer, None, layer.digest, layer.size_bytes, digests(layer))
    assert (s3.data / bucket / object_key(layer.digest)).read_bytes() == b"other"


async def test_a_writer_that_may_not_read_is_named(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path
) -> None:
    layer = large(tmp_path)
    await send_parts(layer, writer)
    wrong = writer.model_copy(update={"secret_access_key": "rotated"})
    with pytest.raises(AccessDenied, match="needs GetObject on layers"):
        await join_parts(wrong, None, layer.digest, layer.size_bytes, digests(layer))
    with pytest.raises(RepositoryUnreachable):
        await join_parts(
            writer.model_copy(update={"endpoint": "https://127.0.0.1:9"}), None, layer.digest, 1, digests(layer)
        )
