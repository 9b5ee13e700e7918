"""Makes a layer of its parts in an S3 repository, if they are that layer.

Nothing is read before all parts are there with their sizes: a node may report parts that it never stores. Then they are
read and hashed before anything is made. The server copies them by itself, each only if it is still the object that was
read. The layer becomes visible as a whole, and never replaces one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from kigi.adapters.s3_client import open_client
from kigi.adapters.s3_errors import FAULTS, answer_of, has_status, translated
from kigi.api.repositories import Repository
from kigi.domain.layer_parts import part_sizes
from kigi.domain.layers import Digest, digest_hex, object_key
from kigi.domain.repository_points import WRITE_KEY
from kigi.errors import AccessDenied, KigiError, LayerCorrupt, RepositoryUnreachable

CHUNK_BYTES = 2**20
COPY_S = 600.0
"""Longest time without an answer: the server copies a part of several GiB meanwhile."""
LEAST_BYTES_PER_S = 4 * 2**20
"""A join that is slower is ended: a server that sends a few bytes a minute must not hold up other layers."""
ABORT_S = 5.0
"""For removing the parts of an upload that failed, also when the operator ends; ``kigi gc`` removes what is left."""
_FAULTS = (*FAULTS, OSError, KeyError, ValueError)
"""OSError: TLS and timeouts. KeyError, ValueError: an answer lacks what S3 promises."""


async def join_parts(
    repository: Repository, ca_bundle: str | None, digest: Digest, size_bytes: int, parts: Sequence[Digest]
) -> None:
    """Stores the layer that the parts are in their order; a layer that is there is left as it is.

    Their sizes are those that ``repository.max_put_bytes`` gives.

    Raises LayerCorrupt if they are another content, AccessDenied, or RepositoryUnreachable: then try again. It takes
    at most ``longest_s(size_bytes)``.
    """
    with _file_of(ca_bundle) as ca_file:
        settings = repository.model_copy(update={"ca_file": ca_file})
        try:
            async with (
                asyncio.timeout(longest_s(size_bytes)),
                open_client(settings, read_timeout_s=COPY_S) as client,
            ):
                bucket = _Bucket(client, repository)
                if await bucket.size_of(object_key(digest)) is None:
                    await bucket.check_sizes(digest, part_sizes(size_bytes, repository.max_put_bytes), parts)
                    await bucket.copy(await bucket.verified(digest, size_bytes, parts), parts, object_key(digest))
        except _FAULTS as exc:
            raise _translated(repository, exc) from exc


def longest_s(size_bytes: int) -> float:
    """Seconds after which a join of a layer of that size is ended."""
    return COPY_S + size_bytes / LEAST_BYTES_PER_S


class _Bucket:
    def __init__(self, client: Any, repository: Repository) -> None:
        self._client, self._name = client, repository.bucket
        self._condition = {"IfNoneMatch": "*"} if repository.conditional_writes else {}

    async def size_of(self, key: str) -> int | None:
        """None: there is no such object. To a user that may not list the bucket the server answers 403 for it."""
        try:
            return int((await self._client.head_object(Bucket=self._name, Key=key))["ContentLength"])
        except ClientError as exc:
            if has_status(exc, 404) or (has_status(exc, 403) and await self._can_read()):
                return None
            raise

    async def _can_read(self) -> bool:
        """Whether the user may read an object that the operator's probe has stored."""
        try:
            await self._client.head_object(Bucket=self._name, Key=WRITE_KEY)
        except ClientError:
            return False
        return True

    async def check_sizes(self, digest: Digest, sizes: Sequence[int], parts: Sequence[Digest]) -> None:
        """Raises RepositoryUnreachable if a part is not stored, and LayerCorrupt if one has another size."""
        found = [await self.size_of(object_key(part)) for part in parts]
        if None in found:
            raise RepositoryUnreachable(
                f"part {found.index(None) + 1} of {len(found)} of layer {digest} is not stored, although the node "
                "reports it; it is looked for again"
            )
        if found != list(sizes):
            raise _is_another(digest)

    async def verified(self, digest: Digest, size_bytes: int, parts: Sequence[Digest]) -> list[str]:
        """ETags of the parts, which together are the layer. Raises LayerCorrupt."""
        sha, etags, left_bytes = hashlib.sha256(), [], size_bytes
        for part in parts:
            answer = await self._client.get_object(Bucket=self._name, Key=object_key(part))
            left_bytes -= int(answer["ContentLength"])
            if left_bytes < 0:
                break  # it is longer, whatever comes
            etags.append(str(answer["ETag"]))
            async with answer["Body"] as body:
                async for chunk in body.iter_chunks(CHUNK_BYTES):
                    await asyncio.to_thread(sha.update, chunk)
        if left_bytes != 0 or sha.hexdigest() != digest_hex(digest):
            raise _is_another(digest)
        return etags

    async def copy(self, etags: Sequence[str], parts: Sequence[Digest], key: str) -> None:
        """Makes the object of the parts, unless it is there by now."""
        upload = (await self._client.create_multipart_upload(Bucket=self._name, Key=key))["UploadId"]
        of_upload = {"Bucket": self._name, "Key": key, "UploadId": upload}
        is_done = False
        try:
            done = []
            for number, (part, etag) in enumerate(zip(parts, etags, strict=True), start=1):
                source = {"Bucket": self._name, "Key": object_key(part)}
                answer = await self._client.upload_part_copy(
                    **of_upload, PartNumber=number, CopySource=source, CopySourceIfMatch=etag
                )
                done.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
            await self._client.complete_multipart_upload(
                **of_upload, MultipartUpload={"Parts": done}, **self._condition
            )
            is_done = True
        except ClientError as exc:
            if not has_status(exc, 409, 412) or await self.size_of(key) is None:
                raise
        finally:
            if not is_done:
                with contextlib.suppress(*_FAULTS):
                    async with asyncio.timeout(ABORT_S):
                        await self._client.abort_multipart_upload(**of_upload)


@contextlib.contextmanager
def _file_of(ca_bundle: str | None) -> Iterator[str | None]:
    """Path of a file in memory with the authorities, as botocore reads a file; the operator's root is read-only."""
    if ca_bundle is None:
        yield None
        return
    descriptor = os.memfd_create("ca.crt", os.MFD_CLOEXEC)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(ca_bundle)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"


def _is_another(digest: Digest) -> LayerCorrupt:
    return LayerCorrupt(f"the parts that the node has stored are not layer {digest}; capture again")


def _translated(repository: Repository, exc: Exception) -> KigiError:
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    answer = answer_of(exc)
    if answer is not None and answer.status in (401, 403) and isinstance(translated(repository, exc), AccessDenied):
        return AccessDenied(
            f"{where}: {answer.name}; to join parts of large layers, the writer needs GetObject on layers/* too"
        )
    if isinstance(exc, FAULTS):
        found = translated(repository, exc)
        if not isinstance(found, RepositoryUnreachable):
            return found
    cause = str(exc) if isinstance(exc, (ClientError, BotoCoreError)) else f"{type(exc).__name__} {exc}".rstrip()
    return RepositoryUnreachable(f"{where}: {cause}; it is tried again")
