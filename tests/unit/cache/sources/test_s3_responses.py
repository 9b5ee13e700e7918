"""What a repository's responses mean: each status, each error code, each range."""

from __future__ import annotations

import http.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, Layer
from kigi.domain.s3_answers import read_answer
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
)
from kigi_cache.sources.s3_responses import check_range, refusal

LAYER = Layer(Digest("sha256:" + "a" * 64), 1000, 512)
REPOSITORY = Repository(endpoint="http://s3.example", bucket="layers")


def xml(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Key>x</Key></Error>'.encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        pytest.param(404, xml("NoSuchBucket"), RepositoryUnknown, "does not exist", id="bucket"),
        pytest.param(404, xml("NoSuchKey"), LayerNotInRepository, "kigi publish", id="object"),
        pytest.param(404, b"", LayerNotInRepository, LAYER.digest, id="object-without-xml"),
        pytest.param(403, xml("SignatureDoesNotMatch"), AccessDenied, "SignatureDoesNotMatch", id="secret"),
        pytest.param(403, xml("InvalidAccessKeyId"), AccessDenied, "GetObject", id="key"),
        pytest.param(401, b"<html>login</html>", AccessDenied, "401", id="proxy"),
        pytest.param(416, xml("InvalidRange"), LayerCorrupt, "shorter than 1000 bytes", id="shorter"),
        pytest.param(503, xml("SlowDown"), RepositoryUnreachable, "SlowDown", id="busy"),
        pytest.param(500, b"\xff\xfe", RepositoryUnreachable, "500", id="broken"),
        pytest.param(301, xml("PermanentRedirect"), RepositoryMisconfigured, "than eu-test-1", id="region"),
        pytest.param(403, xml("AccessDenied"), AccessDenied, "or they lack ListBucket", id="right"),
        pytest.param(400, xml("ExpiredToken"), AccessDenied, "sessionToken", id="token"),
        pytest.param(403, xml("RequestTimeTooSkewed"), RepositoryMisconfigured, "clock", id="clock"),
    ],
)
def test_each_refusal_has_its_error(status: int, body: bytes, error: type[KigiError], words: str) -> None:
    refused = refusal(read_answer(status, {}, body), REPOSITORY, LAYER, "eu-test-1")
    assert type(refused) is error
    assert words in str(refused)
    if error is not LayerCorrupt:
        assert str(refused).startswith("http://s3.example: bucket layers")


@given(st.integers(300, 599), st.binary(max_size=200))
def test_whatever_is_answered_is_an_error_with_a_message(status: int, body: bytes) -> None:
    assert str(refusal(read_answer(status, {}, body), REPOSITORY, LAYER, "eu-test-1"))


@pytest.mark.parametrize(
    ("status", "content_range", "start"),
    [
        pytest.param(206, "bytes 0-999/1000", 0, id="all"),
        pytest.param(206, "bytes 500-999/1000", 500, id="rest"),
        pytest.param(206, "bytes 500-599/1000", 500, id="less-than-requested"),
        pytest.param(200, "", 0, id="server-without-ranges"),
    ],
)
def test_the_requested_bytes_are_accepted(status: int, content_range: str, start: int) -> None:
    check_range(status, content_range, LAYER, start)


@pytest.mark.parametrize(
    ("status", "content_range", "start", "words"),
    [
        pytest.param(206, "bytes 0-999/2000", 0, "has 2000 bytes instead of 1000", id="larger-object"),
        pytest.param(206, "bytes 0-998/999", 0, "has 999 bytes", id="smaller-object"),
        pytest.param(206, "bytes 0-999/1000", 500, "500 to 999 with bytes 0-999/1000", id="another-start"),
        pytest.param(206, "bytes 0-999/*", 0, "0 to 999 with bytes 0-999/\\*", id="unknown-size"),
        pytest.param(206, "items 0-999/1000", 0, "with items", id="another-unit"),
        pytest.param(200, "", 500, "500 to 999 with all", id="all-instead-of-the-rest"),
    ],
)
def test_other_bytes_are_corrupt(status: int, content_range: str, start: int, words: str) -> None:
    with pytest.raises(LayerCorrupt, match=words):
        check_range(status, content_range, LAYER, start)


def test_a_head_that_breaks_off_is_asked_for_again() -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        check_range(206, "", LAYER, 0)
