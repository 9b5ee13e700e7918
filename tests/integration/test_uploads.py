"""Signed requests against a real S3 server: they store one content under one key, once, for a short time, and no more.

Each test is an attack with a request from a NodeCache, which every daemon may read.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kigi.adapters.s3 import open_repository
from kigi.api.layer_upload import SignedRequest
from kigi.api.repositories import Repository
from kigi.domain.layers import digest_of_hex, object_key
from kigi.domain.signed_put import LIFE_S, put_headers
from kigi.errors import AccessDenied, LayerCorrupt, RepositoryUnreachable
from kigi_cache.captures.uploads import PIECE_BYTES, MadeLayer, send_layer
from localcluster.s3 import Credentials, S3Server
from tests.support.uploads import layer_file, signed, writer_of

BIG = 24 * PIECE_BYTES
"""Long enough for the server to answer before the whole content is sent."""
SKEW_S = 30.0
"""The test may take that long between signing and sending."""


@pytest.fixture
def writer(s3: S3Server, bucket: str) -> Repository:
    return writer_of(s3, bucket)


class Sent:
    """Counts the bytes of an upload."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def add(self, count: int) -> None:
        self.size_bytes += count


def stored(s3: S3Server, bucket: str) -> dict[str, bytes]:
    """Content of every object, by key."""
    root = s3.data / bucket
    found = (path for path in root.rglob("*") if path.is_file() and ".sgwtmp" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.parametrize("size", [1, PIECE_BYTES, PIECE_BYTES + 1, BIG])
async def test_the_layer_is_stored_once_and_others_find_it(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, size: int
) -> None:
    layer, sent = layer_file(tmp_path, bytes([size % 251]) * size), Sent()
    request = signed(writer, layer.digest, layer.size_bytes)
    assert await send_layer(layer, request, None, sent.add) is True
    assert sent.size_bytes == size
    assert stored(s3, bucket) == {object_key(layer.digest): layer.path.read_bytes()}
    assert await send_layer(layer, request, None, sent.add) is False, "used twice"
    reader = s3.grant_reading(bucket)
    keys = {"access_key_id": reader.access_key, "secret_access_key": reader.secret_key}
    async with open_repository(writer.model_copy(update=keys)) as store:
        assert await store.is_stored(layer.path, layer.digest), "a user that only reads can compare it"
        s3._client().put_object(Bucket=bucket, Key=object_key(layer.digest), Body=b"x" * size)  # type: ignore[attr-defined]
        with pytest.raises(LayerCorrupt, match="remove the damaged object and publish again"):
            await store.is_stored(layer.path, layer.digest)


@pytest.mark.parametrize("size", [100, BIG])
async def test_other_content_of_the_same_length_is_refused(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, size: int
) -> None:
    honest = b"a" * size
    forged = layer_file(tmp_path, b"b" * size, claimed=honest)
    with pytest.raises(RepositoryUnreachable, match="XAmzContentSHA256Mismatch"):
        await send_layer(forged, signed(writer, forged.digest, size), None, Sent().add)
    assert stored(s3, bucket) == {}
    layer = layer_file(tmp_path, honest)
    assert await send_layer(layer, signed(writer, layer.digest, size), None, Sent().add)


@pytest.mark.parametrize("size", [100, BIG])
async def test_a_stored_layer_is_never_replaced_not_even_a_damaged_one(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, size: int
) -> None:
    layer = layer_file(tmp_path, b"a" * size)
    assert await send_layer(layer, signed(writer, layer.digest, size), None, Sent().add)
    path = s3.data / bucket / object_key(layer.digest)
    path.write_bytes(b"damaged")
    sent = Sent()
    assert await send_layer(layer, signed(writer, layer.digest, size), None, sent.add) is False
    assert path.read_bytes() == b"damaged"
    assert sent.size_bytes < size or size == 100, "a refusal ends the upload"


@pytest.mark.parametrize("age_s", [LIFE_S + SKEW_S, 86_400.0, -(LIFE_S + SKEW_S)], ids=["old", "very old", "future"])
async def test_a_request_of_another_time_is_refused(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, age_s: float
) -> None:
    layer = layer_file(tmp_path, b"a" * BIG)
    request = signed(writer, layer.digest, BIG, datetime.now(UTC) - timedelta(seconds=age_s))
    with pytest.raises(AccessDenied, match="RequestTimeTooSkewed"):
        await send_layer(layer, request, None, Sent().add)
    assert stored(s3, bucket) == {}


async def test_a_request_works_until_its_end(writer: Repository, tmp_path: Path) -> None:
    layer = layer_file(tmp_path, b"a")
    at = datetime.now(UTC) - timedelta(seconds=LIFE_S - SKEW_S)
    assert await send_layer(layer, signed(writer, layer.digest, 1, at), None, Sent().add)


async def test_a_rotated_secret_ends_requests(s3: S3Server, bucket: str, writer: Repository, tmp_path: Path) -> None:
    layer = layer_file(tmp_path, b"a")
    rotated = writer.model_copy(update={"secret_access_key": "the one before"})
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        await send_layer(layer, signed(rotated, layer.digest, 1), None, Sent().add)
    removed = writer.model_copy(update={"access_key_id": "user-that-was-deleted"})
    with pytest.raises(AccessDenied, match="InvalidAccessKeyId"):
        await send_layer(layer, signed(removed, layer.digest, 1), None, Sent().add)
    assert stored(s3, bucket) == {}


async def test_a_writer_needs_no_right_but_to_put(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    """The example's rights. With them, neither the request nor the user reads, lists or deletes."""
    user = Credentials(f"writer-{bucket}", "its-secret")
    s3.create_user(user)
    client = s3._client()
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["%s"]}, '
        '"Action": "s3:PutObject", "Resource": "arn:aws:s3:::%s/layers/*"}]}'
    )
    client.put_bucket_policy(Bucket=bucket, Policy=policy % (user.access_key, bucket))
    keys = {"access_key_id": user.access_key, "secret_access_key": user.secret_key}
    writer = writer_of(s3, bucket).model_copy(update=keys)
    layer = layer_file(tmp_path, b"a")
    assert await send_layer(layer, signed(writer, layer.digest, 1), None, Sent().add)


REUSES = {
    "another layer": {"path": "/{bucket}/layers/sha256/" + "f" * 64},
    "a key beside the layers": {"path": "/{bucket}/notes"},
    "another bucket": {"path": "/{bucket}-other/{key}"},
    "reading": {"method": "GET"},
    "deleting": {"method": "DELETE"},
    "beginning an upload in parts": {"method": "POST", "query": "uploads"},
    "an upload in parts": {"query": "partNumber=1&uploadId=x"},
    "rights of the object": {"query": "acl"},
    "a tag": {"query": "tagging"},
    "its retention": {"query": "retention"},
    "replacing": {"drop": "if-none-match"},
    "replacing what is there": {"if-none-match": '"x"'},
    "more content": {"content-length": "2"},
    "other content": {"x-amz-content-sha256": hashlib.sha256(b"b").hexdigest()},
    "unsigned content": {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"},
    "a later time": {"x-amz-date": "20991231T235959Z"},
    "a copy": {"x-amz-copy-source": "/{bucket}/{key}"},
    "a public object": {"x-amz-acl": "public-read"},
    "a shorter retention": {"x-amz-object-lock-mode": "GOVERNANCE"},
}
"""Other uses of the signature: headers to add or change, another method, path or query."""


@pytest.mark.parametrize("reuse", REUSES)
async def test_the_signature_is_good_for_nothing_else(
    s3: S3Server, bucket: str, writer: Repository, tmp_path: Path, reuse: str
) -> None:
    first = layer_file(tmp_path, b"stored before")
    assert await send_layer(first, signed(writer, first.digest, first.size_bytes), None, Sent().add)
    s3.create_bucket(f"{bucket}-other")
    layer = layer_file(tmp_path, b"a")
    request = signed(writer, layer.digest, 1)
    change = {name: text.format(bucket=bucket, key=object_key(first.digest)) for name, text in REUSES[reuse].items()}
    before = stored(s3, bucket)
    status = await asyncio.to_thread(use_otherwise, request, layer, change)
    assert status in (400, 403), status
    assert (stored(s3, bucket), stored(s3, f"{bucket}-other")) == (before, {})


def use_otherwise(request: SignedRequest, layer: MadeLayer, change: dict[str, str]) -> int:
    """Status of the server's answer."""
    parts = urlsplit(request.url)
    method, dropped = change.pop("method", "PUT"), change.pop("drop", "")
    path, query = change.pop("path", parts.path), change.pop("query", "")
    headers = {**put_headers(layer.digest, layer.size_bytes, request.time), **change}
    headers = {name: text for name, text in headers.items() if name != dropped}
    body = b"a" * int(headers["content-length"])
    url = f"{parts.scheme}://{parts.netloc}{path}{'?' if query else ''}{query}"
    asked = urllib.request.Request(url, method=method, data=body)
    for name, text in {**headers, "authorization": request.authorization, "content-type": ""}.items():
        asked.add_header(name, text)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


@pytest.fixture
def mute() -> Iterator[str]:
    """URL of a server that accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_a_server_that_makes_no_progress_is_left(mute: str, tmp_path: Path) -> None:
    digest = digest_of_hex("0" * 64)
    for size in (1, BIG):
        layer = MadeLayer(layer_file(tmp_path, b"a" * size).path, digest, size)
        request = SignedRequest(url=f"{mute}/kigi/x", time="20260101T000000Z", authorization="x")
        with pytest.raises(RepositoryUnreachable, match="no progress; it is tried again"):
            await send_layer(layer, request, None, Sent().add, stall_s=0.2)


async def test_a_server_that_is_not_there_is_named_without_the_signature(tmp_path: Path) -> None:
    layer = layer_file(tmp_path, b"a")
    request = SignedRequest(url="http://127.0.0.1:9/kigi/x", time="20260101T000000Z", authorization="AWS4 secret")
    with pytest.raises(RepositoryUnreachable, match=r"^http://127\.0\.0\.1:9: ") as caught:
        await send_layer(layer, request, None, Sent().add)
    assert "AWS4" not in str(caught.value)
