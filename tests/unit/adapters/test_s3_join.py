"""Joins read nothing before all parts are stored, and end in time. With a real server: integration/test_joins.py."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from kigi.adapters import s3_join
from kigi.adapters.s3_join import join_parts, longest_s
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, object_key
from kigi.errors import KigiError, LayerCorrupt, RepositoryUnreachable

MIB = 2**20
REPOSITORY = Repository(endpoint="http://s3.example", bucket="kigi", max_put_bytes=5 * MIB)
LAYER = Digest("sha256:" + "d" * 64)
PARTS = [Digest(f"sha256:{number:064x}") for number in range(3)]
SIZE = 12 * MIB


class Server:
    """An S3 server that has some objects, of which it knows the sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, int] = {}
        self.reads: list[str] = []
        self.error: Exception | None = None
        self.drips = False

        @asynccontextmanager
        async def open_client(*_: Any, **__: Any) -> AsyncIterator[Server]:
            yield self

        monkeypatch.setattr(s3_join, "open_client", open_client)

    async def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        if Key not in self.sizes:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}}, "HeadObject")  # type: ignore[typeddict-item]
        return {"ContentLength": self.sizes[Key]}

    async def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        self.reads.append(Key)
        assert self.drips, "it reads before all is there"
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def join(self) -> None:
        await join_parts(REPOSITORY, None, LAYER, SIZE, PARTS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def store(server: Server, *sizes: int | None) -> None:
    for part, size in zip(PARTS, sizes, strict=True):
        if size is not None:
            server.sizes[object_key(part)] = size


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((5 * MIB, 5 * MIB, None), id="the-last-is-missing"),
        pytest.param((None, 5 * MIB, 2 * MIB), id="the-first-is-missing"),
        pytest.param((5 * MIB, 2 * MIB, 5 * MIB), id="other-sizes-with-the-same-sum"),
        pytest.param((5 * MIB, 5 * MIB, 2**40), id="longer"),
    ],
)
async def test_a_node_that_has_not_stored_all_parts_makes_the_operator_read_nothing(
    server: Server, sizes: tuple[int | None, ...]
) -> None:
    store(server, *sizes)
    expected = RepositoryUnreachable if None in sizes else LayerCorrupt
    words = f"part {sizes.index(None) + 1} of 3 of layer" if None in sizes else "are not layer"
    with pytest.raises(expected, match=words):
        await server.join()
    assert server.reads == []


async def test_a_server_that_drips_is_left_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store(server, 5 * MIB, 5 * MIB, 2 * MIB)
    server.drips = True
    monkeypatch.setattr(s3_join, "COPY_S", 0.0)
    monkeypatch.setattr(s3_join, "LEAST_BYTES_PER_S", 2**40)
    with pytest.raises(RepositoryUnreachable, match="TimeoutError"):
        await server.join()
    assert server.reads == [object_key(PARTS[0])]


def test_the_time_grows_with_the_layer() -> None:
    assert longest_s(64 * MIB) == s3_join.COPY_S + 16


@pytest.mark.parametrize(
    "error", [ResponseParserError("no XML"), KeyError("ContentLength"), ssl.SSLError("certificate"), ValueError("x")]
)
async def test_answers_that_are_not_those_of_s3_are_errors_of_the_repository(server: Server, error: Exception) -> None:
    server.error = error
    with pytest.raises(KigiError, match=f"http://s3.example: bucket kigi: {type(error).__name__}"):
        await server.join()
