"""Small requests that show whether a repository can be read, and whether it refuses to overwrite an object."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import SplitResult

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from kigi.adapters.credentials import EnvironmentKeys, keys_of, region_of
from kigi.adapters.kubernetes.proxies import shown
from kigi.adapters.proxies import proxy_for
from kigi.adapters.tls import refused_certificate, tls_context, verification_error
from kigi.api.repositories import Repository, object_url
from kigi.domain.repository_points import WRITE_KEY
from kigi.domain.s3_answers import S3Answer, misconfiguration, other_region, read_answer
from kigi.errors import (
    AccessDenied,
    KigiError,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
)

ABSENT_KEY = f"layers/sha256/{'0' * 64}"
"""No file has this digest, so the object does not exist."""
TIMEOUT_S = 10.0
ERROR_BYTES = 4096
_MD5_OF_NOTHING = "1B2M2Y8AsgTpgAmY7PhCfg=="


class ConditionalWrites(Enum):
    """Whether the server honours ``If-None-Match: *``; the values are those of the status."""

    SUPPORTED = "Supported"
    UNSUPPORTED = "Unsupported"
    """It ignores the header."""
    REFUSED = "Refused"
    """It answers 501 to the header: requests must not have it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """An answer, and the region that its request was signed for."""

    answer: S3Answer
    region: str


class S3Probe:
    """Probes with one connection each. ``ca_bundle``: authorities of an https endpoint as PEM; None: the system's.

    Without credentials of its own, a repository is probed with those of the process's environment.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        environment: Mapping[str, str] = os.environ,
        keys: EnvironmentKeys | None = None,
    ) -> None:
        """``timeout_s`` bounds each request."""
        self._timeout_s, self._environment = timeout_s, environment
        self._keys = keys or EnvironmentKeys()

    async def read(self, repository: Repository, ca_bundle: str | None) -> str:
        """Reads a layer that does not exist; the region that the server accepts.

        Raises RepositoryUnknown, RepositoryMisconfigured, AccessDenied, RepositoryUnreachable, or SpecInvalid for a
        damaged ``ca_bundle``.
        """
        asked = await self._ask("GET", repository, ca_bundle, ABSENT_KEY, {})
        answer = asked.answer
        if answer.status == 404 and answer.code != "NoSuchBucket":
            return asked.region
        if answer.is_right_missing:
            # The same answer for a missing object and for a missing right: an object that exists tells them apart.
            other = await self._ask("GET", repository, ca_bundle, WRITE_KEY, {})
            if other.answer.status == 200:
                return other.region
        raise _error(asked, repository, "GetObject on layers/* and ListBucket")

    async def write(self, repository: Repository, ca_bundle: str | None) -> ConditionalWrites:
        """Stores the empty object WRITE_KEY, unless it is there. Raises as ``read``.

        The first request creates the object, or a server that ignores the condition replaces it by an equal one: the
        second request tells the two apart. A server that honours the condition costs one request from then on.
        """
        headers = {"Content-MD5": _MD5_OF_NOTHING, "If-None-Match": "*"}
        result = ConditionalWrites.UNSUPPORTED
        for _ in range(2):
            asked = await self._ask("PUT", repository, ca_bundle, WRITE_KEY, headers)
            answer = asked.answer
            if answer.status in (409, 412):
                return ConditionalWrites.SUPPORTED
            if answer.is_condition_unknown and "If-None-Match" in headers:
                del headers["If-None-Match"]
                result = ConditionalWrites.REFUSED
            elif answer.status not in (200, 201, 204):
                raise _error(asked, repository, "PutObject on layers/*")
        return result

    async def _ask(
        self, method: str, repository: Repository, ca_bundle: str | None, key: str, headers: Mapping[str, str]
    ) -> _Asked:
        """The answer; if it names another region than that of the request, the one to a request for that region."""
        region = region_of(repository, self._environment)
        answer = await self._request(method, repository, ca_bundle, key, headers, region)
        other = other_region(answer, region)
        if other is None:
            return _Asked(answer, region)
        return _Asked(await self._request(method, repository, ca_bundle, key, headers, other), other)

    async def _request(
        self,
        method: str,
        repository: Repository,
        ca_bundle: str | None,
        key: str,
        headers: Mapping[str, str],
        region: str,
    ) -> S3Answer:
        tls, proxy = _tls(repository, ca_bundle), proxy_for(repository.endpoint, self._environment)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        url = object_url(repository, key)
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=b"")
        signer = keys_of(repository, self._environment, self._keys).signer()
        S3SigV4Auth(signer, "s3", region).add_auth(request)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    url,
                    headers=dict(request.headers.items()),
                    ssl=tls,
                    proxy=proxy.geturl() if proxy is not None else None,
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.content.read(ERROR_BYTES)
        except aiohttp.ClientHttpProxyError as exc:
            raise _of_proxy(repository, proxy, S3Answer(exc.status), region) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # ValueError: a host name that is none
            certificate = verification_error(exc)
            if certificate is not None:
                raise refused_certificate(repository.endpoint, certificate) from exc
            raise RepositoryUnreachable(f"{repository.endpoint}: {_cause(exc)}; it is tried again") from exc
        return read_answer(answer.status, answer.headers, body)


def _tls(repository: Repository, ca_bundle: str | None) -> ssl.SSLContext | bool:
    if not repository.endpoint.startswith("https://"):
        return True
    if ca_bundle is None:
        return _system_tls()
    try:
        return tls_context(ca_data=ca_bundle)
    except (ssl.SSLError, ValueError) as exc:
        raise SpecInvalid(f"spec.s3.caBundleRef: the key ca.crt has no certificate as PEM: {exc}") from exc


@functools.cache
def _system_tls() -> ssl.SSLContext:
    return tls_context()


def _cause(exc: Exception) -> str:
    """The same text for the same cause: aiohttp's own has addresses in memory, and would change the status."""
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return f"the proxy {exc.host}:{exc.port} does not answer"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error.strerror or type(exc.os_error).__name__
    return "no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__


def _of_proxy(repository: Repository, proxy: SplitResult | None, answer: S3Answer, region: str) -> KigiError:
    """The proxy refuses the tunnel."""
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    found = misconfiguration(answer, where, region)
    name = shown(proxy) if proxy is not None else "of HTTPS_PROXY"
    return found or RepositoryMisconfigured(
        f"{where}: the proxy {name} refuses the connection ({answer.status}); permit it there, or name the server in "
        "NO_PROXY"
    )


def _error(asked: _Asked, repository: Repository, rights: str) -> KigiError:
    where, answer = f"{repository.endpoint}: bucket {repository.bucket}", asked.answer
    found = misconfiguration(answer, where, asked.region)
    if found is not None:
        return found
    if answer.code == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; create it, or correct spec.s3.bucket")
    if answer.status in (401, 403):
        return AccessDenied(f"{where}: {answer.name}; the credentials must allow {rights}")
    return RepositoryUnreachable(f"{where} answers {answer.name}; it is tried again")
