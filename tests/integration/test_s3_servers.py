"""Publishing to servers and through proxies with a way of their own, each as a small server before a real S3 server."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kigi.adapters.s3 import LayerBucket, open_repository
from kigi.adapters.s3_join import join_parts
from kigi.adapters.s3_probe import ConditionalWrites, S3Probe
from kigi.api.repositories import Repository
from kigi.domain.layer_parts import part_sizes
from kigi.domain.layers import Digest, digest_of_hex, object_key
from kigi.domain.repository_points import WRITE_KEY
from kigi.errors import AccessDenied, LayerNotInRepository, RepositoryMisconfigured, RepositoryUnreachable
from kigi_cache.captures.uploads import cut, send_layer
from localcluster.s3 import S3Server
from tests.support.aws_environment import nowhere
from tests.support.layers import environment
from tests.support.picky_proxy import PickyProxy, Reply, Request, Rule, s3_error
from tests.support.uploads import layer_file, signed, writer_of

MIB = 2**20
SMALL, LARGE = MIB, 20 * MIB


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere(monkeypatch, tmp_path)


@asynccontextmanager
async def opened(s3: S3Server, endpoint: str, bucket: str, **settings: object) -> AsyncIterator[LayerBucket]:
    repository = Repository.model_validate({"endpoint": endpoint, "bucket": bucket, **settings})
    async with open_repository(repository, environment(s3)) as store:
        yield store


def a_file(folder: Path, size_bytes: int, seed: int = 0) -> tuple[Path, Digest]:
    path = folder / f"layer-{size_bytes}-{seed}"
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path, digest_of_hex(hashlib.sha256(path.read_bytes()).hexdigest())


def stored(s3: S3Server, bucket: str, digest: Digest) -> bytes | None:
    path = s3.data / bucket / object_key(digest)
    return path.read_bytes() if path.exists() else None


def proxied(s3: S3Server, rule: Rule) -> PickyProxy:
    return PickyProxy(s3.endpoint, rule)


# R1: a user without the right to list the bucket.


def hides_missing(s3: S3Server, bucket: str) -> Rule:
    """As Amazon answers a user without ListBucket and without the rights on uploads."""

    def rule(request: Request) -> Reply | None:
        is_read = (
            request.method in ("GET", "HEAD") and "?uploads" not in request.path and "uploadId" not in request.path
        )
        if is_read and not (s3.data / bucket / request.key).is_file():
            return s3_error(403, "AccessDenied")
        return s3_error(403, "AccessDenied") if request.method == "GET" and "upload" in request.path else None

    return rule


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_user_that_may_not_list_the_bucket_publishes(
    s3: S3Server, bucket: str, tmp_path: Path, size: int
) -> None:
    path, digest = a_file(tmp_path, size)
    with proxied(s3, hides_missing(s3, bucket)) as proxy:
        async with opened(s3, proxy.endpoint, bucket) as store:
            assert await store.publish(path, digest) is True
            assert await store.publish(path, digest) is False
            assert stored(s3, bucket, digest) == path.read_bytes()
            with pytest.raises(LayerNotInRepository, match=f"lacks layer {a_file(tmp_path, 10)[1]}"):
                await store.head(a_file(tmp_path, 10)[1])
            with pytest.raises(LayerNotInRepository):
                await store.fetch(a_file(tmp_path, 10)[1], tmp_path / "fetched")
    assert (s3.data / bucket / WRITE_KEY).is_file(), "readers can tell a missing layer from a missing right"


async def test_a_writer_that_may_not_list_the_bucket_joins_parts(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    layer = layer_file(tmp_path, random.Random(8).randbytes(12 * MIB))
    with proxied(s3, hides_missing(s3, bucket)) as proxy:
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint, "max_put_bytes": 5 * MIB})
        await S3Probe().write(writer, None)
        parts = cut(layer, writer.max_put_bytes).pieces
        digests = [part.digest for part in parts]
        for part in parts[1:]:
            assert await send_layer(part, signed(writer, part.digest, part.size_bytes), None, lambda size: None)
        with pytest.raises(RepositoryUnreachable, match="part 1 of 3"):
            await join_parts(writer, None, layer.digest, layer.size_bytes, digests)
        request = signed(writer, parts[0].digest, parts[0].size_bytes)
        assert await send_layer(parts[0], request, None, lambda size: None) is True
        await join_parts(writer, None, layer.digest, layer.size_bytes, digests)
    assert stored(s3, bucket, layer.digest) == layer.path.read_bytes()


async def test_a_user_that_may_not_read_is_told_of_both_causes(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    path, digest = a_file(tmp_path, SMALL)
    reads = ("GET", "HEAD")
    with proxied(s3, lambda request: s3_error(403, "AccessDenied") if request.method in reads else None) as proxy:
        async with opened(s3, proxy.endpoint, bucket) as store:
            assert await store.publish(path, digest) is True
            with pytest.raises(AccessDenied, match=r"lack GetObject on layers.*or they lack ListBucket"):
                await store.head(digest)
            with pytest.raises(AccessDenied):
                await store.publish(path, digest)  # it is stored, and cannot be compared


async def test_a_user_that_may_not_write_is_refused_and_nothing_is_stored(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    path, digest = a_file(tmp_path, SMALL)
    with proxied(s3, lambda request: s3_error(403, "AccessDenied")) as proxy:
        async with opened(s3, proxy.endpoint, bucket) as store:
            with pytest.raises(AccessDenied, match="AccessDenied; the credentials lack a right on layers/"):
                await store.publish(path, digest)
    assert stored(s3, bucket, digest) is None


# R3: If-None-Match.


def refuses_conditions(request: Request) -> Reply | None:
    return s3_error(501, "NotImplemented") if "if-none-match" in request.headers else None


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_server_without_conditions_gets_layers_once(
    s3: S3Server, bucket: str, tmp_path: Path, size: int
) -> None:
    path, digest = a_file(tmp_path, size)
    with proxied(s3, refuses_conditions) as proxy:
        async with opened(s3, proxy.endpoint, bucket) as store:
            assert await store.publish(path, digest) is True
            assert await store.publish(path, digest) is False
            other, other_digest = a_file(tmp_path, size, seed=1)
            assert await store.publish(other, other_digest) is True
    assert stored(s3, bucket, digest) == path.read_bytes()
    asked = [request for request in proxy.asked if "if-none-match" in request.headers]
    assert len(asked) == 1, "the server is asked once"


async def test_a_captured_layer_reaches_a_server_without_conditions(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    content = random.Random(7).randbytes(12 * MIB)
    layer = layer_file(tmp_path, content)
    with proxied(s3, refuses_conditions) as proxy:
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint, "max_put_bytes": 5 * MIB})
        assert await S3Probe().write(writer, None) is ConditionalWrites.REFUSED
        writer = writer.model_copy(update={"conditional_writes": False})
        parts = cut(layer, writer.max_put_bytes).pieces
        for part in parts:
            request = signed(writer, part.digest, part.size_bytes)
            assert await send_layer(part, request, None, lambda size: None) is True
        await join_parts(writer, None, layer.digest, len(content), [part.digest for part in parts])
    assert [part.size_bytes for part in parts] == list(part_sizes(len(content), 5 * MIB))
    assert stored(s3, bucket, layer.digest) == content


# R4: the region.


def in_region(region: str, answer: Callable[[Request], Reply]) -> Rule:
    return lambda request: None if request.region == region else answer(request)


def with_region(request: Request) -> Reply:
    code = "AuthorizationHeaderMalformed" if "authorization" in request.headers else "AuthorizationQueryParametersError"
    return s3_error(400, code, "<Region>us-east-1</Region>", **{"x-amz-bucket-region": "us-east-1"})


REGIONS = {
    "400": with_region,
    "400 without a header": lambda request: s3_error(400, "AuthorizationHeaderMalformed", "<Region>us-east-1</Region>"),
    "301": lambda request: s3_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "us-east-1"}),
}


@pytest.mark.parametrize("answer", REGIONS.values(), ids=REGIONS.keys())
async def test_the_region_of_the_answer_is_used(
    s3: S3Server, bucket: str, tmp_path: Path, answer: Callable[[Request], Reply]
) -> None:
    path, digest = a_file(tmp_path, SMALL)
    with proxied(s3, in_region("us-east-1", answer)) as proxy:
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint, "region": "eu-west-1"})
        assert await S3Probe().read(writer, None) == "us-east-1"
        async with opened(s3, proxy.endpoint, bucket, region="eu-west-1") as store:
            assert await store.publish(path, digest) is True
    assert stored(s3, bucket, digest) == path.read_bytes()


async def test_a_region_of_the_environment_is_used(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nregion = eu-test-1\n")
    for number, variables in enumerate(({"AWS_REGION": "eu-test-1"}, {"AWS_DEFAULT_REGION": "eu-test-1"}, {})):
        path, digest = a_file(tmp_path, SMALL, seed=number)
        with proxied(s3, lambda request: None) as proxy:
            repository = Repository(endpoint=proxy.endpoint, bucket=bucket)
            async with open_repository(repository, {**environment(s3), **variables}) as store:
                assert await store.publish(path, digest) is True, "the real server names its own region"
        assert (proxy.asked[0].region, proxy.asked[-1].region) == ("eu-test-1", "us-east-1")


async def test_a_bucket_on_another_server_is_named_with_the_settings(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    path, digest = a_file(tmp_path, SMALL)
    inside = "<Endpoint>s3.eu-central-1.example</Endpoint>"
    elsewhere = s3_error(301, "PermanentRedirect", inside, **{"x-amz-bucket-region": "eu-central-1"})
    unknown = s3_error(400, "AuthorizationHeaderMalformed")
    for reply, words in ((elsewhere, "eu-central-1"), (unknown, "names no other region than us-east-1; set")):
        with proxied(s3, lambda request, reply=reply: reply) as proxy:  # type: ignore[misc]
            writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint})
            with pytest.raises(RepositoryMisconfigured, match=words):
                await S3Probe().read(writer, None)
            async with opened(s3, proxy.endpoint, bucket) as store:
                with pytest.raises(RepositoryMisconfigured, match=r"spec\.s3\."):
                    await store.publish(path, digest)
        assert len(proxy.asked) < 10


# R5: a bucket whose objects have a retention.


def wants_md5(request: Request) -> Reply | None:
    is_content = request.method == "PUT" and "x-amz-copy-source" not in request.headers
    if not is_content:
        return None
    right = base64.b64encode(hashlib.md5(request.body).digest()).decode()
    if request.headers.get("content-md5") != right:
        return Reply(
            400,
            b"<Error><Code>InvalidRequest</Code><Message>Content-MD5 or x-amz-checksum- HTTP header is required for "
            b"Put Object requests with Object Lock parameters</Message></Error>",
        )
    return None


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_content_is_sent_with_its_md5(s3: S3Server, bucket: str, tmp_path: Path, size: int) -> None:
    path, digest = a_file(tmp_path, size)
    with proxied(s3, wants_md5) as proxy:
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint})
        assert await S3Probe().write(writer, None) is ConditionalWrites.SUPPORTED
        async with opened(s3, proxy.endpoint, bucket) as store:
            assert await store.publish(path, digest) is True
        captured = layer_file(tmp_path, random.Random(size).randbytes(size))
        request = signed(writer, captured.digest, captured.size_bytes)
        assert await send_layer(captured, request, None, lambda count: None) is True
    assert stored(s3, bucket, digest) == path.read_bytes()
    assert stored(s3, bucket, captured.digest) == captured.path.read_bytes()


# R6: a proxy with a limit.


def takes_at_most(limit: int) -> Rule:
    page = (
        b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body><hr><center>nginx</center></html>"
    )
    return lambda request: Reply(413, page, {"Content-Type": "text/html"}) if len(request.body) > limit else None


async def test_a_proxys_limit_is_named_and_a_setting_keeps_it(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    with proxied(s3, takes_at_most(8 * MIB)) as proxy:
        for size, words in ((10 * MIB, "a request of 10.0 MiB"), (LARGE, "a request of 16.0 MiB")):
            path, digest = a_file(tmp_path, size)
            async with opened(s3, proxy.endpoint, bucket) as store:
                with pytest.raises(RepositoryMisconfigured, match=f"refuses {words} as too large") as caught:
                    await store.publish(path, digest)
            assert "spec.limits.maxPutBytes" in str(caught.value)
            assert "KIGI_S3_MAX_PUT_BYTES" in str(caught.value)
            async with opened(s3, proxy.endpoint, bucket, maxPutBytes=8 * MIB) as store:
                assert await store.publish(path, digest) is True
                assert await store.publish(path, digest) is False
            assert stored(s3, bucket, digest) == path.read_bytes()
        captured = layer_file(tmp_path, bytes(9 * MIB))
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": proxy.endpoint})
        request = signed(writer, captured.digest, captured.size_bytes)
        with pytest.raises(RepositoryMisconfigured, match=r"a request of 9\.0 MiB.*spec\.limits\.maxPutBytes"):
            await send_layer(captured, request, None, lambda count: None)
