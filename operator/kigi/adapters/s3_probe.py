"""Small requests that show whether a repository can be read, and whether it refuses to overwrite an object."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from enum import Enum

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from kigi.api.repositories import Repository, object_url
from kigi.errors import AccessDenied, KigiError, RepositoryUnknown, RepositoryUnreachable, SpecInvalid

ABSENT_KEY = f"layers/sha256/{'0' * 64}"
"""No file has this digest, so the object does not exist."""
WRITE_KEY = "layers/kigi-write-probe"
"""An empty object beside the layers. It stays: a writer need not have the right to delete."""
TIMEOUT_S = 10.0
ERROR_BYTES = 4096
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")


class ConditionalWrites(Enum):
    """Whether the server honours ``If-None-Match: *``; the values are those of the status."""

    SUPPORTED = "Supported"
    UNSUPPORTED = "Unsupported"


class S3Probe:
    """Probes with one connection each. ``ca_bundle``: authorities of an https endpoint as PEM; None: the system's."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """``timeout_s`` bounds each request."""
        self._timeout_s = timeout_s

    async def read(self, repository: Repository, ca_bundle: str | None) -> None:
        """Reads a layer that does not exist.

        Raises RepositoryUnknown, AccessDenied, RepositoryUnreachable, or SpecInvalid for a damaged ``ca_bundle``.
        """
        status, code = await self._request("GET", repository, ca_bundle, ABSENT_KEY, {})
        if status == 404 and code != "NoSuchBucket":
            return
        raise _error(status, code, repository, "GetObject on layers/* and ListBucket")

    async def write(self, repository: Repository, ca_bundle: str | None) -> ConditionalWrites:
        """Stores the empty object WRITE_KEY, unless it is there. Raises as ``read``.

        The first request creates the object, or a server that ignores the condition replaces it by an equal one: the
        second request tells the two apart. A server that honours the condition costs one request from then on.
        """
        for _ in range(2):
            status, code = await self._request("PUT", repository, ca_bundle, WRITE_KEY, {"If-None-Match": "*"})
            if status in (409, 412):
                return ConditionalWrites.SUPPORTED
            if status == 501:
                return ConditionalWrites.UNSUPPORTED
            if status not in (200, 201, 204):
                raise _error(status, code, repository, "PutObject on layers/*")
        return ConditionalWrites.UNSUPPORTED

    async def _request(
        self, method: str, repository: Repository, ca_bundle: str | None, key: str, headers: Mapping[str, str]
    ) -> tuple[int, str]:
        """Status and S3 error code; the code is empty if the answer has none."""
        try:
            tls = ssl.create_default_context(cadata=ca_bundle) if ca_bundle is not None else True
        except (ssl.SSLError, ValueError) as exc:
            raise SpecInvalid(f"spec.s3.caBundleRef: the key ca.crt has no certificate as PEM: {exc}") from exc
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            request = _signed(method, repository, key, headers)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    object_url(repository, key),
                    headers=dict(request.headers.items()),
                    ssl=tls,
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.content.read(ERROR_BYTES)
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # ValueError: a host name or port that is none
            raise RepositoryUnreachable(f"{repository.endpoint}: {_cause(exc)}; it is tried again") from exc
        found = _CODE.search(body)
        return answer.status, found.group(1).decode() if found else ""


def _cause(exc: Exception) -> str:
    """The same text for the same cause: aiohttp's own has addresses in memory, and would change the status."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return str(exc.certificate_error)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error.strerror or type(exc.os_error).__name__
    return "no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__


def _signed(method: str, repository: Repository, key: str, headers: Mapping[str, str]) -> AWSRequest:
    request = AWSRequest(method=method, url=object_url(repository, key), headers=dict(headers), data=b"")
    credentials = Credentials(repository.access_key_id or "", repository.secret_access_key or "")
    S3SigV4Auth(credentials, "s3", repository.region).add_auth(request)
    return request


def _error(status: int, code: str, repository: Repository, rights: str) -> KigiError:
    where, name = f"{repository.endpoint}: bucket {repository.bucket}", code or str(status)
    if code == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; create it, or correct spec.s3.bucket")
    if 300 <= status < 400:
        return RepositoryUnknown(f"{where} is elsewhere ({name}); correct spec.s3.endpoint, region or addressing")
    if status in (401, 403):
        return AccessDenied(f"{where}: {name}; the credentials must allow {rights}")
    return RepositoryUnreachable(f"{where} answers {name}; it is tried again")
