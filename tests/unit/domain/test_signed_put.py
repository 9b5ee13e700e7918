"""Signed requests: botocore makes the same signature, and every part of a request changes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from kigi.domain.layers import Digest
from kigi.domain.signed_put import Key, authorization, parse_time, put_headers, time_text

DIGEST = Digest("sha256:" + "ab" * 32)
KEY = Key("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AT = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
URLS = {
    "path": "https://s3.example/kigi/layers/sha256/" + "ab" * 32,
    "virtual host": "https://kigi.s3.example/layers/sha256/" + "ab" * 32,
    "port": "http://127.0.0.1:7070/kigi/layers/sha256/" + "ab" * 32,
    "default port": "http://S3.example:80/kigi/layers/sha256/" + "ab" * 32,
}


def by_botocore(url: str, region: str, key: Key, headers: dict[str, str]) -> str:
    """The same with botocore, whose clock cannot be set: its steps after that, with the time of the headers."""
    request = AWSRequest(method="PUT", url=url, headers=headers)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(key.access_key_id, key.secret_access_key), "s3", region)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-2"])
def test_a_signature_is_the_one_of_botocore(url: str, region: str) -> None:
    headers = put_headers(DIGEST, 12345, time_text(AT))
    assert authorization(url, region, KEY, headers) == by_botocore(url, region, KEY, headers)


def test_the_request_names_its_content_its_length_its_time_and_that_it_replaces_nothing() -> None:
    headers = put_headers(DIGEST, 12345, time_text(AT))
    signed = authorization(URLS["path"], "us-east-1", KEY, headers)
    names = {"content-length", "host", "if-none-match", "x-amz-content-sha256", "x-amz-date"}
    assert f"SignedHeaders={';'.join(sorted(names))}," in signed
    assert headers["if-none-match"] == "*"
    assert KEY.secret_access_key not in signed


def test_each_part_of_a_request_is_signed() -> None:
    def signed(url: str = URLS["path"], key: Key = KEY, **changes: str) -> str:
        return authorization(url, "us-east-1", key, {**put_headers(DIGEST, 1, time_text(AT)), **changes})

    others = [
        signed(URLS["virtual host"]),
        signed(URLS["path"][:-1] + "c"),
        signed(key=Key(KEY.access_key_id, "rotated")),
        signed(**{"content-length": "2"}),
        signed(**{"if-none-match": '"x"'}),
        signed(**{"x-amz-content-sha256": "cd" * 32}),
        signed(**{"x-amz-date": time_text(AT + timedelta(seconds=1))}),
    ]
    assert len({signed(), *(other.rpartition("=")[2] for other in others), signed().rpartition("=")[2]}) == 9


def test_times_are_of_utc_and_whole_seconds() -> None:
    east = AT.replace(microsecond=999_999).astimezone(timezone(timedelta(hours=9)))
    assert time_text(east) == "20260301T123005Z"
    assert parse_time(time_text(east)) == AT
    with pytest.raises(ValueError, match="time data"):
        parse_time("2026-03-01T12:30:05Z")
