"""Signed URLs: nothing is sent."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kigi.api.repositories import Repository
from kigi.errors import SpecInvalid
from kigi_cache.sources.signing import URL_LIFE_S, SignedUrl, Signer
from tests.support.aws_environment import nowhere
from tests.support.manual_clock import ManualClock

KEY = "layers/sha256/" + "a" * 64
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
REPOSITORY = Repository(endpoint="http://s3.example", bucket="layers")


def test_a_url_names_bucket_key_and_life() -> None:
    parts = urlsplit(Signer(KEYS).sign(REPOSITORY, KEY))
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("http", "s3.example", "/layers/layers/sha256/" + "a" * 64)
    assert query["X-Amz-Expires"] == [str(URL_LIFE_S)]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].startswith("key/")
    assert "secret" not in parts.query


def test_the_bucket_may_be_in_the_host_name() -> None:
    repository = REPOSITORY.model_copy(update={"addressing": "VirtualHost"})
    assert urlsplit(Signer(KEYS).sign(repository, KEY)).netloc == "layers.s3.example"


@pytest.mark.parametrize(
    ("variables", "region", "signed"),
    [
        ({}, None, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-north-1"}, None, "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "eu-north-1", "AWS_REGION": "eu-west-3"}, None, "eu-west-3"),
        ({"AWS_REGION": "eu-west-3"}, "eu-central-1", "eu-central-1"),
    ],
)
def test_requests_are_signed_for_the_region(variables: dict[str, str], region: str | None, signed: str) -> None:
    repository = REPOSITORY.model_copy(update={"region": region})
    signer = Signer({**KEYS, **variables})
    assert f"%2F{signed}%2Fs3" in signer.sign(repository, KEY)
    signer.use_region(repository, "ap-south-1")
    assert "%2Fap-south-1%2Fs3" in signer.sign(repository, KEY)
    assert "ap-south-1" not in signer.sign(repository.model_copy(update={"bucket": "others"}), KEY)


def test_a_token_is_in_the_url_and_replaced_credentials_are_used() -> None:
    environment = dict(KEYS)
    signer = Signer(environment)
    assert "X-Amz-Security-Token" not in signer.sign(REPOSITORY, KEY)
    environment |= {"AWS_ACCESS_KEY_ID": "rotated", "AWS_SESSION_TOKEN": "a+/token=="}
    query = parse_qs(urlsplit(signer.sign(REPOSITORY, KEY)).query)
    assert query["X-Amz-Credential"][0].startswith("rotated/")
    assert query["X-Amz-Security-Token"] == ["a+/token=="]
    own = REPOSITORY.model_copy(update={"access_key_id": "own", "secret_access_key": "x", "session_token": "mine"})
    query = parse_qs(urlsplit(signer.sign(own, KEY)).query)
    assert (query["X-Amz-Credential"][0].split("/")[0], query["X-Amz-Security-Token"]) == ("own", ["mine"])


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere(monkeypatch, tmp_path)
    for variables in ({}, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}):
        with pytest.raises(SpecInvalid, match="AWS_ACCESS_KEY_ID"):
            Signer(variables).sign(REPOSITORY, KEY)
    with pytest.raises(SpecInvalid, match="AWS_SECRET_ACCESS_KEY is not"):
        Signer({"AWS_ACCESS_KEY_ID": "a"}).sign(REPOSITORY, KEY)


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
