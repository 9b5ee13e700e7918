"""What unsuccessful answers of S3 servers, and of proxies before them, have in common; pure.

Operator, daemon and command line each send requests with another library. They read the answers here, so that the same
answer has the same error and the same remedy everywhere.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kigi.domain.quantities import format_bytes
from kigi.errors import AccessDenied, KigiError, RepositoryMisconfigured

REGION_PATTERN = r"[A-Za-z0-9-]{1,63}"
_CODE = re.compile(rb"<Code>\s*(\w{1,64})\s*</Code>")
_REGION = re.compile(rf"<Region>\s*({REGION_PATTERN})\s*</Region>|expecting ['\"]({REGION_PATTERN})['\"]")
"""Some servers name the region in the message only."""
_ENDPOINT = re.compile(rb"<Endpoint>\s*([A-Za-z0-9.-]{1,253}(?::\d{1,5})?)\s*</Endpoint>")
_WRONG_REGION = frozenset(
    ("AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "PermanentRedirect", "TemporaryRedirect")
)
_WRONG_TOKEN = frozenset(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"))
_TOO_LARGE = frozenset(("EntityTooLarge", "MaxMessageLengthExceeded", "RequestEntityTooLarge"))


@dataclass(frozen=True, slots=True)
class S3Answer:
    """An unsuccessful answer."""

    status: int
    code: str = ""
    """The server's code, such as ``NoSuchKey``; empty if the answer has none, as one of a proxy."""
    region: str | None = None
    """The right region, if the answer names one."""
    endpoint: str | None = None
    """Host of the right server, if the answer names one."""

    @property
    def name(self) -> str:
        """The code, or else the status."""
        return self.code or str(self.status)

    @property
    def is_wrong_region(self) -> bool:
        """Whether another region or server would be right."""
        return self.code in _WRONG_REGION or self.status in (301, 302, 307, 308)

    @property
    def is_right_missing(self) -> bool:
        """Whether the credentials are valid and lack a right.

        S3 gives this answer for an object that does not exist, too, to a user without the right to list the bucket.
        """
        return self.status == 403 and self.code in ("", "AccessDenied", "403", "Forbidden")

    @property
    def is_condition_unknown(self) -> bool:
        """Whether the server does not have a feature that the request needs, such as ``If-None-Match``."""
        return self.status == 501 or self.code == "NotImplemented"


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> S3Answer:
    """An answer to an S3 request; nothing of it is trusted. ``headers``: names in any case; ``body``: its begin."""
    fields = {name.lower(): text for name, text in headers.items()}
    code, region, endpoint = _CODE.search(body), fields.get("x-amz-bucket-region", ""), _ENDPOINT.search(body)
    if not re.fullmatch(REGION_PATTERN, region):
        found = _REGION.search(html.unescape(body.decode("latin-1")))
        region = (found[1] or found[2]) if found else ""
    return S3Answer(
        status,
        code[1].decode() if code else "",
        region or None,
        endpoint[1].decode() if endpoint else None,
    )


def other_region(answer: S3Answer, used: str) -> str | None:
    """The region to send the request for once more, if the answer says that ``used`` is not the right one."""
    return answer.region if answer.is_wrong_region and answer.region != used else None


def misconfiguration(answer: S3Answer, where: str, region: str, size_bytes: int | None = None) -> KigiError | None:
    """The error of an answer that only another setting heals; None for any other answer.

    ``where`` names server and bucket, ``region`` is the one that the request was signed for, and ``size_bytes`` the
    size of its body.
    """
    if answer.is_wrong_region:
        return RepositoryMisconfigured(_region_text(answer, where, region))
    if answer.status == 413 or answer.code in _TOO_LARGE:
        size = f"a request of {format_bytes(size_bytes)}" if size_bytes else "a request"
        return RepositoryMisconfigured(
            f"{where}: the server, or a proxy before it, refuses {size} as too large ({answer.name}); raise its limit "
            "(nginx: client_max_body_size), or set spec.limits.maxPutBytes of the LayerRepository, or "
            "KIGI_S3_MAX_PUT_BYTES beside KIGI_S3_ENDPOINT, to the limit"
        )
    if answer.status == 407:
        return RepositoryMisconfigured(
            f"{where}: the proxy requires a user (407); write HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT, or name "
            "the server in NO_PROXY"
        )
    if answer.code == "RequestTimeTooSkewed":
        return RepositoryMisconfigured(
            f"{where}: this machine's clock and the server's differ by more than 15 minutes; synchronise them"
        )
    if answer.code in _WRONG_TOKEN:
        return AccessDenied(
            f"{where}: {answer.code}; renew the key sessionToken of the Secret, or AWS_SESSION_TOKEN, or log in again"
        )
    return None


def _region_text(answer: S3Answer, where: str, used: str) -> str:
    settings = "spec.s3.region of the LayerRepository, or AWS_REGION beside KIGI_S3_ENDPOINT,"
    if answer.endpoint:
        region = f", and {settings} to {answer.region}" if answer.region and answer.region != used else ""
        return (
            f"{where} is on another server ({answer.name}); set spec.s3.endpoint, or KIGI_S3_ENDPOINT, to the URL of "
            f"{answer.endpoint} without the bucket{region}"
        )
    if answer.region and answer.region != used:
        return f"{where} is in region {answer.region} ({answer.name}); set {settings} to {answer.region}"
    return (
        f"{where} is elsewhere ({answer.name}), and the answer names no other region than {used}; set {settings} to "
        "the bucket's region, or correct spec.s3.endpoint or addressing"
    )
