"""Signed requests of uploads, renewed when they are too old or no longer those of the repository's settings; pure."""

from __future__ import annotations

from datetime import datetime

from kigi.api.layer_repository import DEFAULT_REGION
from kigi.api.layer_upload import SignedRequest
from kigi.api.repositories import Repository, object_url
from kigi.domain.layers import Digest, object_key
from kigi.domain.signed_put import Key, authorization, parse_time, put_headers, time_text

RENEW_S = 300.0
"""Age at which a request is replaced: the server refuses one of 900 s, by a clock that may differ from this one."""


def request_of(
    writer: Repository, digest: str, size_bytes: int, present: SignedRequest | None, now: datetime
) -> SignedRequest:
    """The present request, unless it is too old or from the future, or settings or credentials have changed since."""
    if present is not None:
        try:
            signed_at = parse_time(present.time)
        except ValueError:
            signed_at = now
        age_s = (now - signed_at).total_seconds()
        if 0 <= age_s < RENEW_S and present == _signed(writer, digest, size_bytes, signed_at):
            return present
    return _signed(writer, digest, size_bytes, now)


def seconds_to_renewal(request: SignedRequest, now: datetime) -> float:
    """At least 1."""
    return max(1.0, RENEW_S - (now - parse_time(request.time)).total_seconds())


def _signed(writer: Repository, digest: str, size_bytes: int, at: datetime) -> SignedRequest:
    time, token = time_text(at), writer.session_token
    url = object_url(writer, object_key(Digest(digest)))
    key = Key(writer.access_key_id or "", writer.secret_access_key or "")
    headers = put_headers(Digest(digest), size_bytes, time, token=token, conditional=writer.conditional_writes)
    signed = authorization(url, writer.region or DEFAULT_REGION, key, headers)
    return SignedRequest(url=url, time=time, authorization=signed, security_token=token)
