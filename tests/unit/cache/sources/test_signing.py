"""Signed URLs: nothing is sent."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, Layer
from kigi.errors import RepositoryUnknown, SpecInvalid
from kigi_cache.sources.signing import URL_LIFE_S, SignedUrl, Signer
from tests.support.manual_clock import ManualClock

LAYER = Layer(Digest("sha256:" + "a" * 64), 1000, 512)
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
REPOSITORY = Repository(endpoint="http://s3.example", bucket="layers")


def test_a_url_names_bucket_key_and_life() -> None:
    parts = urlsplit(Signer(KEYS).sign(REPOSITORY, LAYER))
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("http", "s3.example", "/layers/layers/sha256/" + "a" * 64)
    assert query["X-Amz-Expires"] == [str(URL_LIFE_S)]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].startswith("key/")
    assert "secret" not in parts.query


def test_the_bucket_may_be_in_the_host_name() -> None:
    repository = REPOSITORY.model_copy(update={"addressing": "VirtualHost"})
    assert urlsplit(Signer(KEYS).sign(repository, LAYER)).netloc == "layers.s3.example"


def test_requests_are_signed_for_the_region() -> None:
    repository = REPOSITORY.model_copy(update={"region": "eu-central-1"})
    assert "eu-central-1" in Signer(KEYS).sign(repository, LAYER)


def test_a_client_is_created_once_for_each_repository_and_its_credentials() -> None:
    environment = dict(KEYS)
    signer = Signer(environment)
    other = REPOSITORY.model_copy(update={"bucket": "others"})
    for repository in (REPOSITORY, other):
        signer.prepare(repository)
    first = signer._client(REPOSITORY)
    assert signer._client(REPOSITORY) is first
    environment["AWS_ACCESS_KEY_ID"] = "rotated"
    assert signer._client(REPOSITORY) is not first
    assert parse_qs(urlsplit(signer.sign(REPOSITORY, LAYER)).query)["X-Amz-Credential"][0].startswith("rotated/")
    assert len(signer._clients) == 2


def test_missing_credentials_are_named() -> None:
    with pytest.raises(SpecInvalid, match="AWS_ACCESS_KEY_ID"):
        Signer({}).sign(REPOSITORY, LAYER)


@pytest.mark.parametrize(
    "change",
    [{"endpoint": "http://"}, {"endpoint": "http://bad host"}, {"bucket": "no/bucket"}, {"region": "no region"}],
)
def test_settings_that_cannot_be_used_are_named(change: dict[str, str]) -> None:
    """An error of botocore would else be reported as a bug, and retried as a transient one."""
    with pytest.raises(RepositoryUnknown, match=r"correct the LayerRepository"):
        Signer(KEYS).sign(REPOSITORY.model_copy(update=change), LAYER)


def test_a_url_is_signed_again_after_half_its_life() -> None:
    time, signed = ManualClock(), 0

    def sign() -> str:
        nonlocal signed
        signed += 1
        return f"url-{signed}"

    url = SignedUrl(sign, time.clock)
    assert url.get() == "url-1"
    time.advance(URL_LIFE_S / 2)
    assert url.get() == "url-1"
    time.advance(1.0)
    assert (url.get(), url.get()) == ("url-2", "url-2")
