"""A signed request that stores one content under one key of an S3 bucket, if the key is absent; pure.

The signature (Signature Version 4, in the header Authorization) covers the method, the URL, the length and SHA-256 of
the content, and ``If-None-Match: *``. A server that checks signatures therefore stores this content or nothing. It
refuses the request when its clock differs from ``time`` by more than LIFE_S. A presigned URL would leave the content
unsigned: servers differ in whether they read a signed ``x-amz-content-sha256`` there.
Source: "Authenticating Requests: Using the Authorization Header" in Amazon's S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from kigi.domain.layers import Digest, digest_hex

LIFE_S = 900.0
"""Largest difference between the time of a request and the server's clock, in seconds."""
MAX_PUT_BYTES = 5 * 2**30
"""Largest object that Amazon S3 takes in one request; other servers take more."""
_TIME = "%Y%m%dT%H%M%SZ"
_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Key:
    """Credentials of an S3 user."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


def time_text(at: datetime) -> str:
    """An aware time as a request has it, in whole seconds."""
    return at.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """The aware UTC time of a request; ValueError for anything else."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def put_headers(
    digest: Digest, size_bytes: int, time: str, *, token: str | None = None, conditional: bool = True
) -> dict[str, str]:
    """Headers that the request must have besides Host and Authorization; all of them are signed.

    ``token``: of temporary credentials. ``conditional`` False: for a server that refuses ``If-None-Match``, see
    ``is_conditional``; the content is fixed all the same.
    """
    headers = {
        "content-length": str(size_bytes),
        "x-amz-content-sha256": digest_hex(digest),
        "x-amz-date": time,
    }
    if conditional:
        headers["if-none-match"] = "*"
    if token is not None:
        headers["x-amz-security-token"] = token
    return headers


def is_conditional(authorization_header: str) -> bool:
    """Whether a request is signed with ``If-None-Match``."""
    _, found, signed = authorization_header.partition("SignedHeaders=")
    return not found or "if-none-match" in signed


def authorization(url: str, region: str, key: Key, headers: Mapping[str, str]) -> str:
    """The header Authorization of a PUT of ``url``, which has no query and only unreserved characters in its path.

    ``headers``: those of ``put_headers``.
    """
    parts = urlsplit(url)
    signed = {**headers, "host": parts.netloc.lower().removesuffix(_PORTS.get(parts.scheme, "?"))}
    names = ";".join(sorted(signed))
    lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
    canonical = "\n".join(["PUT", parts.path, "", *lines, "", names, headers["x-amz-content-sha256"]])
    time = headers["x-amz-date"]
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    text = "\n".join([_ALGORITHM, time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = b"AWS4" + key.secret_access_key.encode()
    for part in scope.split("/"):
        secret = _hmac(secret, part)
    signature = _hmac(secret, text).hex()
    return f"{_ALGORITHM} Credential={key.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
