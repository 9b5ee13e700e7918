"""The errors of botocore and of an S3 server as Kigi's errors, for clients of ``s3_client``."""

from __future__ import annotations

import ssl

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError

from kigi.adapters.credentials import WAYS, region_of
from kigi.adapters.tls import refused_certificate, verification_error
from kigi.api.repositories import Repository
from kigi.domain.s3_answers import S3Answer, misconfiguration
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerNotInRepository,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
)

FAULTS = (ClientError, BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError, ssl.SSLError)
"""aiohttp's error: the connection broke while a body was read."""


def answer_of(exc: BaseException) -> S3Answer | None:
    """The server's answer behind an error; None if there was none."""
    if not isinstance(exc, ClientError):
        return None
    response = exc.response
    meta, error = response.get("ResponseMetadata", {}), response.get("Error", {})
    headers = meta.get("HTTPHeaders", {})
    status = int(meta.get("HTTPStatusCode", 0))
    code, region = str(error.get("Code") or ""), headers.get("x-amz-bucket-region") or error.get("Region")
    # botocore gives the status, or a part of an HTML page, as the code of an answer without one.
    code = code if code.isidentifier() else ""
    return S3Answer(status, code, str(region) if region else None, str(error.get("Endpoint") or "") or None)


def has_status(exc: BaseException, *statuses: int) -> bool:
    """Whether the server answered with one of these."""
    answer = answer_of(exc)
    return answer is not None and answer.status in statuses


def translated(repository: Repository, exc: BaseException, size_bytes: int | None = None) -> KigiError:
    """The error to raise. ``size_bytes``: of the body that was sent."""
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    certificate = verification_error(exc)
    if certificate is not None:
        return refused_certificate(where, certificate)
    answer = answer_of(exc)
    if answer is not None:
        return _of_answer(answer, where, repository, size_bytes)
    if isinstance(exc, (NoCredentialsError, PartialCredentialsError)):
        return SpecInvalid(f"repository {repository.bucket}: {exc}; {WAYS}")
    if isinstance(exc, ProxyConnectionError):
        return RepositoryMisconfigured(f"{where}: {exc}; correct HTTPS_PROXY, or name the server in NO_PROXY")
    return RepositoryUnreachable(f"{where}: {exc}; call again, it goes on from here")


def _of_answer(answer: S3Answer, where: str, repository: Repository, size_bytes: int | None) -> KigiError:
    found = misconfiguration(answer, where, region_of(repository), size_bytes)
    if found is not None:
        return found
    if answer.code == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; create it, or correct the LayerRepository or KIGI_S3_BUCKET")
    if answer.code == "NoSuchKey":
        return LayerNotInRepository(f"{where} lacks a layer of the parent's chain")
    if answer.status in (401, 403):
        return AccessDenied(f"{where}: {answer.name}; the credentials lack a right on layers/")
    status = f" ({answer.status})" if answer.code else ""
    return RepositoryUnreachable(f"{where} answers {answer.name}{status}; call again, it goes on from here")


def first_error(exc: BaseException) -> BaseException:
    """The first error of a group of tasks."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
