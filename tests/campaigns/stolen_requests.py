"""What a signed request in a NodeCache is good for: whoever has one of a daemon's tokens can read all of them.

Each request is sent as it is, and in every other way: with another content, key, bucket, method or subresource, and
with headers dropped, changed or added.
"""

from __future__ import annotations

import hashlib
import http.client
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from kigi.api.layer_upload import SignedRequest
from kigi.api.repositories import Repository
from kigi.domain.layers import digest_of_hex
from kigi.domain.signed_put import put_headers
from tests.campaigns.stolen_cluster import Outcome
from tests.campaigns.stolen_s3 import OTHER, USERS, Buckets, content, key_of
from tests.support.uploads import signed

NEW = "the layer that it is signed for"
STORED = "a stored layer that it is signed for"
EXACT = "PutObject as signed"
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH")
SUBRESOURCES = (
    "acl",
    "attributes",
    "delete",
    "legal-hold",
    "lifecycle",
    "object-lock",
    "partNumber=1&uploadId=x",
    "policy",
    "restore",
    "retention",
    "select&select-type=2",
    "tagging",
    "torrent",
    "uploadId=x",
    "uploads",
    "versionId=null",
    "versioning",
    "versions",
    "x-id=PutObject",
)
HEADERS = {
    "x-amz-copy-source": "/{bucket}/{stored}",
    "x-amz-copy-source-if-none-match": "x",
    "x-amz-acl": "public-read-write",
    "x-amz-grant-full-control": "id=x",
    "x-amz-tagging": "a=b",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "2020-01-01T00:00:00Z",
    "x-amz-object-lock-legal-hold": "OFF",
    "x-amz-bypass-governance-retention": "true",
    "x-amz-website-redirect-location": "/x",
    "x-amz-storage-class": "GLACIER",
    "x-amz-meta-x": "y",
    "x-amz-decoded-content-length": "3",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-security-token": "x",
    "x-http-method-override": "DELETE",
    "if-match": "*",
}
"""Headers that the signature does not cover."""


class Try(NamedTuple):
    """One use of a request. ``headers`` None as a value: dropped."""

    what: str
    method: str = "PUT"
    path: str = ""
    body: bytes | None = None
    headers: Mapping[str, str | None] = {}


def steal(buckets: Buckets, bucket: str, seed: int, count: int) -> tuple[Outcome, bool]:
    """Uses requests for a new and for a stored layer of the bucket; whether that was every use of them."""
    outcome, writer, is_whole = Outcome(), _writer(buckets, bucket), True
    for target, data in ((NEW, f"a new layer {bucket} {seed}".encode()), (STORED, content(0, bucket))):
        digest = digest_of_hex(hashlib.sha256(data).hexdigest())
        request = signed(writer, digest, len(data))
        uses = list(_uses(buckets, bucket, data))
        chosen = uses if len(uses) <= count else random.Random(seed).sample(uses, count)
        is_whole &= len(chosen) == len(uses)
        for each in (*chosen, Try(EXACT), Try(EXACT)):
            headers = {**put_headers(digest, len(data), request.time), "authorization": request.authorization}
            outcome.note(each.what, target, _send(request, data, headers, each))
    return outcome, is_whole


def _writer(buckets: Buckets, bucket: str) -> Repository:
    keys = USERS["writer"]
    return Repository(
        endpoint=buckets.server.endpoint,
        bucket=bucket,
        access_key_id=keys.access_key,
        secret_access_key=keys.secret_key,
    )


def _uses(buckets: Buckets, bucket: str, data: bytes) -> Iterator[Try]:
    stored = buckets.keys[bucket][1]
    own = f"/{bucket}/{key_of(data)}"
    other = bytes(reversed(data))
    sha256 = hashlib.sha256(other).hexdigest()
    yield Try("other content", body=other)
    yield Try("other content", body=other, headers={"x-amz-content-sha256": sha256})
    yield Try("other content", body=other, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
    yield Try("other content", body=other + b"x", headers={"content-length": str(len(other) + 1)})
    yield Try("other content", body=b"", headers={"content-length": "0"})
    yield Try("other content", body=other, headers={"x-amz-content-sha256": None})
    streaming = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    yield Try("other content", body=other, headers={"x-amz-content-sha256": streaming})
    yield Try("replacing", headers={"if-none-match": None})
    yield Try("replacing", body=other, headers={"if-none-match": None})
    yield Try("replacing", body=other, headers={"if-none-match": '"x"'})
    yield Try("another time", headers={"x-amz-date": "20991231T235959Z"})
    places = [f"/{bucket}/{stored}", f"/{bucket}/notes/readme", f"/{bucket}", "/", f"/{OTHER}/{key_of(data)}"]
    places += [
        f"/{OTHER}/{buckets.keys[OTHER][0]}",
        f"/{bucket}/layers/../{stored}",
        own + "/x",
        own + "%00",
    ]
    for place in places:
        for method in METHODS:
            yield Try("another place", method, place)
    for method in METHODS:
        if method != "PUT":
            yield Try("another method", method)
        for name in SUBRESOURCES:
            yield Try("a subresource", method, f"{own}?{name}")
            yield Try("a subresource", method, f"/{bucket}?{name}")
    for name, text in HEADERS.items():
        value = text.format(bucket=bucket, stored=stored)
        # A header of another kind changes nothing of what the request does.
        yield Try("another header" if name.startswith("x-amz-") else EXACT, headers={name: value})
        yield Try("another header", body=other, headers={name: value})


def _send(request: SignedRequest, data: bytes, headers: Mapping[str, str], each: Try) -> str | None:
    """The answer; None: the server refused it, or did not understand it."""
    parts = urlsplit(request.url)
    sent = {name: text for name, text in {**headers, **each.headers}.items() if text is not None}
    body = data if each.body is None else each.body
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.putrequest(each.method, each.path or parts.path, skip_accept_encoding=True)
        for name, text in sent.items():
            connection.putheader(name, text)
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    is_refused = answer.status in (400, 401, 403, 405, 411, 501) or (answer.status == 412 and each.what != EXACT)
    return None if is_refused else f"{answer.status} {each} {text[:200]}"
