"""Asks an S3 server what ``kigi repository check`` wants to know of a bucket.

It changes nothing but the probe objects WRITE_KEY, which is empty and stays, and CONTENT_KEY, which exists only on a
server that takes false content. DELETE_KEY never exists; on a server that lets a user delete it, a versioned bucket
gets a delete marker.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kigi.adapters.s3_client import open_client
from kigi.adapters.s3_errors import FAULTS, answer_of, translated
from kigi.api.repositories import Repository
from kigi.domain.repository_points import WRITE_KEY, Answer, Answers
from kigi.errors import RepositoryMisconfigured, RepositoryUnknown

CONTENT_KEY = "layers/kigi-content-probe"
DELETE_KEY = "layers/kigi-delete-probe"
NO_VERSION = "null"
"""An id of a form that every server knows. No object has ``DELETE_KEY``, so none has such a version."""
ATTEMPTS = 2


async def ask_all(
    caller: Repository, reader: Repository | None, writer: Repository | None, environment: Mapping[str, str]
) -> Answers:
    """The answers to the caller (of the environment unless it has keys) and to the users of daemons and operator.

    Raises SpecInvalid without credentials of the caller, RepositoryUnknown without a bucket, RepositoryUnreachable.
    """
    async with _open(caller, environment) as bucket:
        versioning = await bucket.ask("get_bucket_versioning")
        object_lock = await bucket.ask("get_object_lock_configuration")
        puts = [await bucket.put_if_absent(WRITE_KEY) for _ in range(2)]
        other_content = await bucket.put_other_content()
    reader_put = reader_delete = writer_delete = writer_delete_version = None
    if reader is not None:
        async with _open(reader, environment) as bucket:
            reader_put = await bucket.put_if_absent(WRITE_KEY)
            reader_delete = await bucket.ask("delete_object", Key=DELETE_KEY)
    if writer is not None:
        async with _open(writer, environment) as bucket:
            writer_delete = await bucket.ask("delete_object", Key=DELETE_KEY)
            writer_delete_version = await bucket.ask("delete_object", Key=DELETE_KEY, VersionId=NO_VERSION)
    return Answers(
        versioning=versioning,
        object_lock=object_lock,
        put_twice=tuple(puts),
        put_other_content=other_content,
        reader_put=reader_put,
        reader_delete=reader_delete,
        writer_delete=writer_delete,
        writer_delete_version=writer_delete_version,
    )


class _Bucket:
    """A bucket, as one user sees it."""

    def __init__(self, repository: Repository, client: Any) -> None:
        self._repository, self._client = repository, client

    async def ask(self, operation: str, **parameters: Any) -> Answer:
        """The answer to one operation on the bucket."""
        return await self._answer(getattr(self._client, operation)(Bucket=self._repository.bucket, **parameters))

    async def put_if_absent(self, key: str, content: bytes = b"", sent: bytes = b"") -> Answer:
        """The answer to PutObject with the condition that there is no such object. ``sent``: what its MD5 is of."""
        md5 = base64.b64encode(hashlib.md5(sent, usedforsecurity=False).digest()).decode()
        return await self.ask("put_object", Key=key, Body=content, IfNoneMatch="*", ContentMD5=md5)

    async def put_other_content(self) -> Answer:
        """The answer to a request with another content, of the same length, than the one that its signature covers."""

        def replace(request: Any, **_: Any) -> None:
            request.body = b"other"

        self._client.meta.events.register("before-send.s3.PutObject", replace)
        try:
            return await self.put_if_absent(CONTENT_KEY, b"right", sent=b"other")
        finally:
            self._client.meta.events.unregister("before-send.s3.PutObject", replace)

    async def _answer(self, request: Awaitable[Mapping[str, Any]]) -> Answer:
        try:
            return Answer(200, value=await request)
        except FAULTS as exc:
            answer, error = answer_of(exc), translated(self._repository, exc)
            if answer is None or isinstance(error, (RepositoryUnknown, RepositoryMisconfigured)):
                raise error from exc
            return Answer(answer.status, answer.code)


@asynccontextmanager
async def _open(repository: Repository, environment: Mapping[str, str]) -> AsyncIterator[_Bucket]:
    async with open_client(repository, environment, attempts=ATTEMPTS) as client:
        yield _Bucket(repository, client)
