"""What a server's answers mean for a repository; a real S3 server is in tests/integration."""

from __future__ import annotations

import pytest

from kigi.adapters.s3_probe import ABSENT_KEY, WRITE_KEY, ConditionalWrites, S3Probe, object_url
from kigi.api.repositories import Repository
from kigi.domain.collection import LAYERS_PREFIX, layer_of
from kigi.errors import (
    AccessDenied,
    KigiError,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
)
from tests.support.answering import AnsweringServer

SECRET = "hush-hush"


def repository(endpoint: str, **changes: str) -> Repository:
    keys = {"accessKeyId": "reader", "secretAccessKey": SECRET}
    return Repository.model_validate({"endpoint": endpoint, "bucket": "kigi", **keys, **changes})


def body(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()


async def test_a_missing_layer_shows_that_reading_works() -> None:
    with AnsweringServer() as server:
        server.answers = [(404, body("NoSuchKey")), (404, b"")]
        await S3Probe().read(repository(server.url), None)
        await S3Probe().read(repository(server.url), None)
    (method, path, headers, _), _ = server.asked
    assert (method, path) == ("GET", f"/kigi/{ABSENT_KEY}")
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=reader/")
    assert SECRET not in str(server.asked)


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", RepositoryUnknown, "does not exist; create it, or correct spec.s3.bucket"),
        (301, "PermanentRedirect", RepositoryMisconfigured, "set spec.s3.region of the LayerRepository, or AWS_REGION"),
        (403, "RequestTimeTooSkewed", RepositoryMisconfigured, "clock"),
        (400, "ExpiredToken", AccessDenied, "renew the key sessionToken"),
        (413, "<html>", RepositoryMisconfigured, "client_max_body_size"),
        (403, "InvalidAccessKeyId", AccessDenied, "InvalidAccessKeyId; the credentials must allow GetObject"),
        (403, "", AccessDenied, "403"),
        (200, "", RepositoryUnreachable, "answers 200"),
        (503, "SlowDown", RepositoryUnreachable, "answers SlowDown"),
        (500, "<script>", RepositoryUnreachable, "answers 500"),
    ],
)
async def test_another_answer_is_an_error_with_its_remedy(
    status: int, code: str, kind: type[KigiError], words: str
) -> None:
    with AnsweringServer() as server:
        server.answers = [(status, body(code)), (status, body(code))]
        with pytest.raises(kind, match=words):
            await S3Probe().read(repository(server.url), None)


async def test_without_the_right_to_list_another_object_shows_that_reading_works() -> None:
    with AnsweringServer() as server:
        server.answers = [(403, body("AccessDenied")), (200, b"")]
        await S3Probe().read(repository(server.url), None)
    assert [path for _, path, _, _ in server.asked] == [f"/kigi/{ABSENT_KEY}", f"/kigi/{WRITE_KEY}"]


async def test_a_server_that_refuses_the_condition_is_written_without_it() -> None:
    with AnsweringServer() as server:
        server.answers = [(501, body("NotImplemented")), (200, b"")]
        assert await S3Probe().write(repository(server.url), None) is ConditionalWrites.REFUSED
    assert ["If-None-Match" in headers for _, _, headers, _ in server.asked] == [True, False]
    assert {headers["Content-MD5"] for _, _, headers, _ in server.asked} == {"1B2M2Y8AsgTpgAmY7PhCfg=="}


async def test_the_region_of_the_answer_is_used_once() -> None:
    malformed = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
    with AnsweringServer() as server:
        server.answers = [(400, malformed), (404, body("NoSuchKey")), (400, malformed), (400, malformed)]
        assert await S3Probe().read(repository(server.url), None) == "eu-central-1"
        with pytest.raises(RepositoryMisconfigured, match="names no other region than eu-central-1"):
            await S3Probe().read(repository(server.url), None)
    regions = [headers["Authorization"].split("/")[2] for _, _, headers, _ in server.asked]
    assert regions == ["us-east-1", "eu-central-1"] * 2


async def test_a_redirect_is_not_followed() -> None:
    """The server of a repository must not make the operator send requests elsewhere."""
    with AnsweringServer() as server:
        server.answers = [(307, b""), (404, b"")]
        with pytest.raises(RepositoryMisconfigured):
            await S3Probe().read(repository(server.url), None)
    assert len(server.asked) == 1


async def test_a_server_that_does_not_answer_is_unreachable() -> None:
    texts = set()
    for _ in range(2):
        with pytest.raises(RepositoryUnreachable) as caught:
            await S3Probe().read(repository("https://127.0.0.1:9"), None)
        texts.add(str(caught.value))
    assert texts == {"https://127.0.0.1:9: Connect call failed ('127.0.0.1', 9); it is tried again"}, (
        "the same text each time: a changed one is another write of the status"
    )
    with pytest.raises(RepositoryUnreachable):
        await S3Probe().write(repository("http://bad_host.invalid:7000"), None)


@pytest.mark.parametrize("bundle", ["no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
async def test_a_damaged_bundle_is_named(bundle: str) -> None:
    with pytest.raises(SpecInvalid, match=r"spec\.s3\.caBundleRef: the key ca\.crt has no certificate"):
        await S3Probe().read(repository("https://127.0.0.1:9"), bundle)


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        pytest.param([412], ConditionalWrites.SUPPORTED, id="it-is-there"),
        pytest.param([200, 412], ConditionalWrites.SUPPORTED, id="created"),
        pytest.param([200, 409], ConditionalWrites.SUPPORTED, id="a-rival-creates-it"),
        pytest.param([200, 200], ConditionalWrites.UNSUPPORTED, id="ignored"),
    ],
)
async def test_two_conditional_writes_tell_whether_the_server_overwrites(
    answers: list[int], result: ConditionalWrites
) -> None:
    with AnsweringServer() as server:
        server.answers = [(status, b"") for status in answers]
        assert await S3Probe().write(repository(server.url), None) is result
    assert len(server.asked) == len(answers)
    assert {(method, path) for method, path, _, _ in server.asked} == {("PUT", f"/kigi/{WRITE_KEY}")}
    assert all(headers["If-None-Match"] == "*" for _, _, headers, _ in server.asked)
    assert all(headers["Content-Length"] == "0" for _, _, headers, _ in server.asked)


async def test_a_refused_write_is_an_error() -> None:
    with AnsweringServer() as server:
        server.answers = [(403, body("AccessDenied"))]
        with pytest.raises(AccessDenied, match="must allow PutObject"):
            await S3Probe().write(repository(server.url), None)


def test_probes_touch_no_layer() -> None:
    assert layer_of(WRITE_KEY) is None
    assert not WRITE_KEY.startswith(LAYERS_PREFIX), "garbage collection does not see it"
    assert layer_of(ABSENT_KEY) == "sha256:" + "0" * 64


def test_the_bucket_is_in_the_path_or_in_the_host_name() -> None:
    assert object_url(repository("https://s3.example:9000/"), "a/b") == "https://s3.example:9000/kigi/a/b"
    virtual = repository("https://s3.example:9000", addressing="VirtualHost")
    assert object_url(virtual, "a/b") == "https://kigi.s3.example:9000/a/b"
