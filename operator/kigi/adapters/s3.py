"""Writes layers to an S3 repository: never overwrites, uploads parts in parallel, and continues broken uploads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from kigi.adapters.s3_client import open_client
from kigi.adapters.s3_errors import FAULTS, answer_of, first_error, has_status
from kigi.adapters.s3_etag import etag_of
from kigi.adapters.s3_listing import BucketListing
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, digest_hex, object_key, parse_digest
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.domain.repository_points import WRITE_KEY
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    NoRoom,
    SpecInvalid,
)

PART_BYTES = 16 * 2**20
"""S3 allows 10,000 parts, so this suffices for a layer of 156 GiB; larger layers get larger parts."""
PARALLEL = 4
RIVAL_ATTEMPTS = 3
Progress = Callable[[int], None]
"""Called with the number of bytes transferred since the last call."""


class LayerBucket(BucketListing):
    """One bucket, with the credentials of its repository: those of ``kigi publish`` write, those of nodes only read."""

    def __init__(self, repository: Repository, client: Any) -> None:
        super().__init__(repository, client)
        self._takes_conditions = repository.conditional_writes
        self._shows_missing = True
        """False: this user cannot tell a missing object from one that it may not read."""

    @property
    def max_depth(self) -> int:
        """Longest chain, in layers, that may be published to this repository."""
        return self._repository.max_depth

    async def size_of(self, digest: Digest) -> int | None:
        """Size in bytes of the stored layer; None if it is not stored, or the server does not show it.

        A server answers 403 for a missing object to a user without the right to list the bucket. What the user may do
        then shows when the layer is stored, which replaces none.
        """
        try:
            answer = await self._head(object_key(digest))
        except FAULTS as exc:
            if has_status(exc, 403):
                self._shows_missing = False
            if has_status(exc, 403, 404):
                return None
            raise self._translated(exc) from exc
        return int(answer["ContentLength"])

    async def _head(self, key: str) -> Mapping[str, Any]:
        """The answer to HEAD. Without a body, 400 tells nothing of the right region: a read of one byte does."""
        try:
            answer: Mapping[str, Any] = await self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as exc:
            if not has_status(exc, 400):
                raise
            async with (await self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=0-0"))["Body"]:
                pass  # now the client uses the region that the server has named
            answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        return answer

    async def publish(self, path: Path, digest: Digest, progress: Progress = lambda count: None) -> bool:
        """Stores the file as that layer; False if it was stored already. Never overwrites; publishers may compete.

        The next call continues an upload that was broken off. Raises LayerCorrupt for another content.
        """
        if await self.is_stored(path, digest):
            progress(path.stat().st_size)
            return False
        is_new = await self._store(path, digest, progress)
        if not self._shows_missing:
            await self._mark()
        if not is_new:
            await self._verify(path, digest, path.stat().st_size)
        return is_new

    async def is_stored(self, path: Path, digest: Digest) -> bool:
        """Whether the file is stored as that layer; only reads. Raises LayerCorrupt for another content."""
        size_bytes, there = path.stat().st_size, await self.size_of(digest)
        if there is None:
            return False
        if there != size_bytes:
            raise LayerCorrupt(
                f"{self._where()}: layer {digest} is stored with {there} bytes instead of {size_bytes}; "
                "remove the damaged object and publish again"
            )
        await self._verify(path, digest, size_bytes)
        return True

    async def _store(self, path: Path, digest: Digest, progress: Progress) -> bool:
        """Stores the file; False if another publisher did."""
        size_bytes = path.stat().st_size
        attempt = 0
        while True:
            try:
                if size_bytes <= min(PART_BYTES, self._repository.max_put_bytes):
                    return await self._put_whole(path, digest, progress)
                return await self._put_parts(path, digest, size_bytes, progress)
            except (*FAULTS, ExceptionGroup) as exc:
                fault = first_error(exc)
                if not isinstance(fault, FAULTS):
                    raise fault from exc
                attempt += 1
                if attempt > RIVAL_ATTEMPTS or not _may_be_a_rival(fault):
                    sent_bytes = min(size_bytes, _part_bytes(size_bytes, self._repository.max_put_bytes))
                    raise self._translated(fault, sent_bytes) from exc
            await asyncio.sleep(attempt)
            if await self.size_of(digest) == size_bytes:
                return False

    async def fetch(self, digest: Digest, target: Path) -> None:
        """Writes the layer to ``target``. The name appears only after the digest was verified."""
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        sha = hashlib.sha256()
        try:
            with part.open("wb") as file:
                await self._read(digest, sha.update, file.write)
                file.flush()
                os.fsync(file.fileno())
            if parse_digest(f"sha256:{sha.hexdigest()}") != digest:
                raise LayerCorrupt(
                    f"{self._where()}: the object of layer {digest} has the digest sha256:{sha.hexdigest()}"
                )
            part.chmod(0o444)
            os.replace(part, target)
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (NoRoom if full else SpecInvalid)(f"{target}: cannot be written: {exc.strerror}") from exc
        finally:
            part.unlink(missing_ok=True)

    async def copy(self, digest: Digest, sink: Callable[[bytes], object]) -> None:
        """Passes the stored bytes to ``sink``, piece by piece. The caller verifies them."""
        await self._read(digest, sink)

    async def head(self, digest: Digest) -> bytes:
        """The first HEADER_BYTES of the stored layer, not verified. Raises LayerNotInRepository."""
        try:
            answer = await self._client.get_object(
                Bucket=self._bucket, Key=object_key(digest), Range=f"bytes=0-{HEADER_BYTES - 1}"
            )
            async with answer["Body"] as body:
                data: bytes = await body.read()
        except FAULTS as exc:
            raise await self._of_read(exc, digest) from exc
        return data

    async def _read(self, digest: Digest, *sinks: Callable[[bytes], object]) -> None:
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=object_key(digest))
            async with answer["Body"] as body:
                async for chunk in body.iter_chunks(2**20):
                    for sink in sinks:
                        sink(chunk)
        except FAULTS as exc:
            raise await self._of_read(exc, digest) from exc

    async def _verify(self, path: Path, digest: Digest, size_bytes: int) -> None:
        """Raises LayerCorrupt unless the stored object is the file: by its ETag, or else by reading it.

        S3's ETag is a checksum of the content, if the object was sent in one request or as this class sends parts, and
        is not encrypted.
        """
        try:
            answer = await self._client.head_object(Bucket=self._bucket, Key=object_key(digest))
        except FAULTS as exc:
            raise self._translated(exc) from exc
        stored = str(answer["ETag"]).strip('"')
        # In parts as this class sends them, or as the operator joins them.
        most_bytes = self._repository.max_put_bytes
        sizes = (_part_bytes(size_bytes, most_bytes), most_bytes) if "-" in stored else (None,)
        for part_bytes in sizes:
            if stored == await asyncio.to_thread(etag_of, path, size_bytes, part_bytes):
                return
        sha = hashlib.sha256()
        await self._read(digest, sha.update)
        if digest_hex(digest) != sha.hexdigest():
            raise LayerCorrupt(
                f"{self._where()}: the object of layer {digest} has the digest sha256:{sha.hexdigest()}; "
                "remove the damaged object and publish again"
            )

    async def _put_whole(self, path: Path, digest: Digest, progress: Progress) -> bool:
        data = await asyncio.to_thread(path.read_bytes)
        key, md5 = object_key(digest), _md5(data)
        try:
            await self._once(
                digest, lambda **condition: self._put_object(Key=key, Body=data, ContentMD5=md5, **condition)
            )
        except ClientError as exc:
            if _is_taken(exc):
                return False
            raise
        progress(len(data))
        return True

    async def _put_object(self, **parameters: Any) -> None:
        await self._client.put_object(Bucket=self._bucket, **parameters)

    async def _once(self, digest: Digest, store: Callable[..., Awaitable[None]]) -> None:
        """Calls ``store`` with the condition that there is no such object.

        A server that does not have the condition (501) is asked whether the layer is there instead: a publisher that
        comes in between replaces it by the same content.
        """
        if self._takes_conditions:
            try:
                await store(IfNoneMatch="*")
                return
            except ClientError as exc:
                answer = answer_of(exc)
                if answer is None or not answer.is_condition_unknown:
                    raise
                self._takes_conditions = False
                if await self.size_of(digest) is not None:
                    return
        await store()

    async def _mark(self) -> None:
        """Stores the empty object WRITE_KEY, unless it is there.

        For users without the right to list the bucket: whether they can read it tells a missing layer from a missing
        right.
        """
        with contextlib.suppress(*FAULTS):
            condition = {"IfNoneMatch": "*"} if self._takes_conditions else {}
            await self._put_object(Key=WRITE_KEY, Body=b"", ContentMD5=_md5(b""), **condition)

    async def _of_read(self, exc: Exception, digest: Digest) -> KigiError:
        """The error of a read: 403 for a layer means a missing layer, if the user may read another object."""
        answer = answer_of(exc)
        if answer is None or not answer.is_right_missing:
            return self._translated(exc)
        try:
            await self._client.head_object(Bucket=self._bucket, Key=WRITE_KEY)
        except FAULTS:
            return AccessDenied(
                f"{self._where()}: {answer.name}; the credentials lack GetObject on layers/*, or they lack ListBucket, "
                f"and layer {digest} is not stored"
            )
        return LayerNotInRepository(f"{self._where()} lacks layer {digest}")

    async def _put_parts(self, path: Path, digest: Digest, size_bytes: int, progress: Progress) -> bool:
        key = object_key(digest)
        part_bytes = _part_bytes(size_bytes, self._repository.max_put_bytes)
        upload = await self._unfinished(key) or await self._begin(key)
        arrived = await self._parts(key, upload)
        limit = asyncio.Semaphore(PARALLEL)

        async def put(number: int) -> dict[str, Any]:
            async with limit:
                data = await asyncio.to_thread(_read_at, path, (number - 1) * part_bytes, part_bytes)
                etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                if arrived.get(number) != etag:
                    answer = await self._client.upload_part(
                        Bucket=self._bucket,
                        Key=key,
                        UploadId=upload,
                        PartNumber=number,
                        Body=data,
                        ContentMD5=_md5(data),
                    )
                    etag = str(answer["ETag"]).strip('"')
                progress(len(data))
                return {"PartNumber": number, "ETag": etag}

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(put(number)) for number in range(1, -(-size_bytes // part_bytes) + 1)]
        parts = {"Parts": [task.result() for task in tasks]}

        async def complete(**condition: str) -> None:
            await self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload=parts, **condition
            )

        try:
            await self._once(digest, complete)
        except ClientError as exc:
            if not _is_taken(exc) and exc.response["Error"]["Code"] != "NoSuchUpload":
                raise
            if await self.size_of(digest) is None:
                raise
            with contextlib.suppress(ClientError):
                await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
            return False
        return True

    async def _begin(self, key: str) -> str:
        answer = await self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
        return str(answer["UploadId"])

    async def _unfinished(self, key: str) -> str | None:
        """The newest unfinished upload of this key, of any publisher: the key fixes the content.

        None without the right to list them, or on a server that cannot: then it begins anew.
        """
        try:
            answer = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        except ClientError as exc:
            if has_status(exc, 403, 405, 501):
                return None
            raise
        uploads = [upload for upload in answer.get("Uploads", []) if upload["Key"] == key]
        newest = max(uploads, key=lambda upload: upload["Initiated"], default=None)
        return str(newest["UploadId"]) if newest else None

    async def _parts(self, key: str, upload: str) -> Mapping[int, str]:
        found: dict[int, str] = {}
        marker = 0
        while True:
            try:
                answer = await self._client.list_parts(
                    Bucket=self._bucket, Key=key, UploadId=upload, PartNumberMarker=marker
                )
            except ClientError as exc:
                if has_status(exc, 403, 405, 501):
                    return {}
                raise
            for part in answer.get("Parts", []):
                found[int(part["PartNumber"])] = str(part["ETag"]).strip('"')
            if not answer.get("IsTruncated"):
                return found
            marker = int(answer["NextPartNumberMarker"])


@asynccontextmanager
async def open_repository(
    repository: Repository, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[LayerBucket]:
    """Opens a client. Raises SpecInvalid if there are no credentials."""
    async with open_client(repository, environment) as client:
        yield LayerBucket(repository, client)


def _part_bytes(size_bytes: int, most_bytes: int) -> int:
    return max(min(PART_BYTES, most_bytes), -(-size_bytes // 9_000))


def _md5(data: bytes) -> str:
    """Header Content-MD5. A bucket whose objects have a retention refuses a request without it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _may_be_a_rival(exc: BaseException) -> bool:
    """Whether another publisher of the same layer may have completed the upload that both sent parts of.

    S3 answers NoSuchUpload; versitygw 1.8.0 answers InternalError when the files of a request disappear.
    """
    if not isinstance(exc, ClientError):
        return False
    return exc.response["Error"]["Code"] in ("NoSuchUpload", "InternalError")


def _is_taken(exc: ClientError) -> bool:
    return bool(exc.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412))


def _read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
