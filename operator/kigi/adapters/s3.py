"""Writes layers to an S3 repository: never overwrites, uploads parts in parallel, and continues broken uploads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from kigi.adapters.s3_client import open_client
from kigi.adapters.s3_etag import etag_of
from kigi.api.repositories import Repository
from kigi.domain.collection import LAYERS_PREFIX, StoredObject, Upload
from kigi.domain.layers import Digest, digest_hex, object_key, parse_digest
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    NoRoom,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
)

PART_BYTES = 16 * 2**20
"""S3 allows 10,000 parts, so this suffices for a layer of 156 GiB; larger layers get larger parts."""
PARALLEL = 4
RIVAL_ATTEMPTS = 3
_FAULTS = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError)
"""aiohttp's error: the connection broke while a body was read."""
Progress = Callable[[int], None]
"""Called with the number of bytes transferred since the last call."""


class LayerBucket:
    """One bucket, with the credentials of its repository: those of ``kigi publish`` write, those of nodes only read."""

    def __init__(self, repository: Repository, client: Any) -> None:
        self._repository = repository
        self._client = client
        self._bucket = repository.bucket

    @property
    def max_depth(self) -> int:
        """Longest chain, in layers, that may be published to this repository."""
        return self._repository.max_depth

    async def size_of(self, digest: Digest) -> int | None:
        """Size in bytes of the stored layer; None if it is not stored."""
        try:
            answer = await self._client.head_object(Bucket=self._bucket, Key=object_key(digest))
        except _FAULTS as exc:
            if isinstance(exc, ClientError) and exc.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise self._translated(exc) from exc
        return int(answer["ContentLength"])

    async def publish(self, path: Path, digest: Digest, progress: Progress = lambda count: None) -> bool:
        """Stores the file as that layer; False if it was stored already. Never overwrites; publishers may compete.

        The next call continues an upload that was broken off. Raises LayerCorrupt for another content.
        """
        if await self.is_stored(path, digest):
            progress(path.stat().st_size)
            return False
        is_new = await self._store(path, digest, progress)
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
                if size_bytes <= PART_BYTES:
                    return await self._put_whole(path, digest, progress)
                return await self._put_parts(path, digest, size_bytes, progress)
            except (*_FAULTS, ExceptionGroup) as exc:
                fault = _first(exc)
                if not isinstance(fault, _FAULTS):
                    raise fault from exc
                attempt += 1
                if attempt > RIVAL_ATTEMPTS or not _may_be_a_rival(fault):
                    raise self._translated(fault) from exc
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
        except _FAULTS as exc:
            raise self._translated(exc) from exc
        return data

    # Garbage collection.

    async def objects(self) -> tuple[list[StoredObject], datetime]:
        """Every object with the key prefix of layers, and the server's time at the start of the listing."""
        found: list[StoredObject] = []
        began: datetime | None = None
        query = {"Bucket": self._bucket, "Prefix": LAYERS_PREFIX}
        while True:
            try:
                answer = await self._client.list_objects_v2(**query)
            except _FAULTS as exc:
                raise self._translated(exc) from exc
            began = began or _server_time(answer)
            for item in answer.get("Contents", ()):
                found.append(StoredObject(item["Key"], int(item["Size"]), item["LastModified"]))
            if not answer.get("IsTruncated"):
                return found, began
            query["ContinuationToken"] = answer["NextContinuationToken"]

    async def uploads(self) -> list[Upload]:
        """Every unfinished upload of a layer."""
        found: list[Upload] = []
        query = {"Bucket": self._bucket, "Prefix": LAYERS_PREFIX}
        while True:
            try:
                answer = await self._client.list_multipart_uploads(**query)
            except _FAULTS as exc:
                raise self._translated(exc) from exc
            for item in answer.get("Uploads", ()):
                found.append(Upload(item["Key"], item["UploadId"], item["Initiated"]))
            if not answer.get("IsTruncated"):
                return found
            query["KeyMarker"], query["UploadIdMarker"] = answer["NextKeyMarker"], answer["NextUploadIdMarker"]

    async def remove(self, item: StoredObject) -> bool:
        """Deletes the object; False if it was stored again since the listing, or is gone.

        S3 cannot make a deletion depend on the time, so the time is read right before the deletion.
        """
        try:
            answer = await self._client.head_object(Bucket=self._bucket, Key=item.key)
            # An HTTP header has whole seconds, a listing may have more.
            if abs(answer["LastModified"] - item.modified) >= timedelta(seconds=1):
                return False
            await self._client.delete_object(Bucket=self._bucket, Key=item.key)
        except _FAULTS as exc:
            if isinstance(exc, ClientError) and exc.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise self._translated(exc) from exc
        return True

    async def abort(self, upload: Upload) -> None:
        """Aborts an unfinished upload and deletes its parts. An upload that has ended counts as success."""
        try:
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id)
        except _FAULTS as exc:
            if isinstance(exc, ClientError) and exc.response["Error"]["Code"] == "NoSuchUpload":
                return
            raise self._translated(exc) from exc

    async def _read(self, digest: Digest, *sinks: Callable[[bytes], object]) -> None:
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=object_key(digest))
            async with answer["Body"] as body:
                async for chunk in body.iter_chunks(2**20):
                    for sink in sinks:
                        sink(chunk)
        except _FAULTS as exc:
            raise self._translated(exc) from exc

    async def _verify(self, path: Path, digest: Digest, size_bytes: int) -> None:
        """Raises LayerCorrupt unless the stored object is the file: by its ETag, or else by reading it.

        S3's ETag is a checksum of the content, if the object was sent in one request or as this class sends parts, and
        is not encrypted.
        """
        try:
            answer = await self._client.head_object(Bucket=self._bucket, Key=object_key(digest))
        except _FAULTS as exc:
            raise self._translated(exc) from exc
        stored = str(answer["ETag"]).strip('"')
        # In parts as this class sends them, or as the operator joins them.
        sizes = (_part_bytes(size_bytes), self._repository.max_put_bytes) if "-" in stored else (None,)
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
        try:
            await self._client.put_object(Bucket=self._bucket, Key=object_key(digest), Body=data, IfNoneMatch="*")
        except ClientError as exc:
            if _is_taken(exc):
                return False
            raise
        progress(len(data))
        return True

    async def _put_parts(self, path: Path, digest: Digest, size_bytes: int, progress: Progress) -> bool:
        key = object_key(digest)
        part_bytes = _part_bytes(size_bytes)
        upload = await self._unfinished(key) or await self._begin(key)
        arrived = await self._parts(key, upload)
        limit = asyncio.Semaphore(PARALLEL)

        async def put(number: int) -> dict[str, Any]:
            async with limit:
                data = await asyncio.to_thread(_read_at, path, (number - 1) * part_bytes, part_bytes)
                etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                if arrived.get(number) != etag:
                    answer = await self._client.upload_part(
                        Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=data
                    )
                    etag = str(answer["ETag"]).strip('"')
                progress(len(data))
                return {"PartNumber": number, "ETag": etag}

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(put(number)) for number in range(1, -(-size_bytes // part_bytes) + 1)]
        parts = {"Parts": [task.result() for task in tasks]}
        try:
            await self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
            )
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
        """The newest unfinished upload of this key, of any publisher: the key fixes the content."""
        answer = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        uploads = [upload for upload in answer.get("Uploads", []) if upload["Key"] == key]
        newest = max(uploads, key=lambda upload: upload["Initiated"], default=None)
        return str(newest["UploadId"]) if newest else None

    async def _parts(self, key: str, upload: str) -> Mapping[int, str]:
        found: dict[int, str] = {}
        marker = 0
        while True:
            answer = await self._client.list_parts(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumberMarker=marker
            )
            for part in answer.get("Parts", []):
                found[int(part["PartNumber"])] = str(part["ETag"]).strip('"')
            if not answer.get("IsTruncated"):
                return found
            marker = int(answer["NextPartNumberMarker"])

    def _where(self) -> str:
        return f"{self._repository.endpoint}: bucket {self._bucket}"

    def _translated(self, exc: BaseException) -> KigiError:
        if isinstance(exc, ClientError):
            code, status = exc.response["Error"]["Code"], exc.response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "NoSuchBucket":
                return RepositoryUnknown(
                    f"{self._where()} does not exist; create it, or correct the LayerRepository or KIGI_S3_BUCKET"
                )
            if code == "NoSuchKey":
                return LayerNotInRepository(f"{self._where()} lacks a layer of the parent's chain")
            if status in (401, 403):
                return AccessDenied(f"{self._where()}: {code}; the credentials lack a right on layers/")
            return RepositoryUnreachable(f"{self._where()} answers {code} ({status}); call again, it goes on from here")
        return RepositoryUnreachable(f"{self._where()}: {exc}; call again, it goes on from here")


@asynccontextmanager
async def open_repository(
    repository: Repository, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[LayerBucket]:
    """Opens a client. Raises SpecInvalid if there are no credentials."""
    async with open_client(repository, environment) as client:
        yield LayerBucket(repository, client)


def _part_bytes(size_bytes: int) -> int:
    return max(PART_BYTES, -(-size_bytes // 9_000))


def _server_time(answer: Mapping[str, Any]) -> datetime:
    """The server's time of an answer: ages of objects must not depend on this machine's clock."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError) as exc:
        raise RepositoryUnreachable("the S3 server sends no Date header, so the age of objects is unknown") from exc


def _first(exc: BaseException) -> BaseException:
    """The first error of a group of tasks."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


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
