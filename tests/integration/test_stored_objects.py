"""An object that is stored already is verified before an upload is skipped; on a real S3 server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.s3 import PART_BYTES, LayerBucket, open_repository
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, digest_of_hex, object_key
from kigi.errors import LayerCorrupt
from localcluster.s3 import S3Server
from tests.support.layers import environment

SIZES = (100_000, PART_BYTES + 1, 2 * PART_BYTES)


def layer_file(directory: Path, size_bytes: int) -> tuple[Path, Digest]:
    """A file with a layer's digest; its content does not matter here."""
    path = directory / "file"
    path.write_bytes(hashlib.shake_256(b"layer").digest(size_bytes))
    return path, digest_of_hex(hashlib.sha256(path.read_bytes()).hexdigest())


async def put(store: LayerBucket, bucket: str, digest: Digest, data: bytes) -> None:
    """Stores an object under the layer's name, as one who has the writer's credentials can."""
    client: Any = store._client
    await client.put_object(Bucket=bucket, Key=object_key(digest), Body=data)


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_an_equal_object_is_known_by_its_checksum(
    s3: S3Server, bucket: str, tmp_path: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = layer_file(tmp_path, size_bytes)
    async with open_repository(Repository(endpoint=s3.endpoint, bucket=bucket), environment(s3)) as store:
        assert await store.publish(path, digest)

        async def read(*_: object) -> None:
            raise AssertionError("the object is not read")

        monkeypatch.setattr(store, "_read", read)
        assert not await store.publish(path, digest)


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_another_object_of_the_same_size_is_corrupt(
    s3: S3Server, bucket: str, tmp_path: Path, size_bytes: int
) -> None:
    path, digest = layer_file(tmp_path, size_bytes)
    data = path.read_bytes()
    async with open_repository(Repository(endpoint=s3.endpoint, bucket=bucket), environment(s3)) as store:
        await put(store, bucket, digest, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(LayerCorrupt, match="remove the damaged object"):
            await store.publish(path, digest)


async def test_an_equal_object_that_was_sent_in_another_way_is_read(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    path, digest = layer_file(tmp_path, PART_BYTES + 1)
    async with open_repository(Repository(endpoint=s3.endpoint, bucket=bucket), environment(s3)) as store:
        await put(store, bucket, digest, path.read_bytes())
        assert not await store.publish(path, digest)
