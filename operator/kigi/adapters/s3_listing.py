"""Lists what a bucket of layers has, with old versions and unfinished uploads, and deletes it, for ``kigi gc``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from kigi.adapters.s3_errors import FAULTS, answer_of, has_status, translated
from kigi.api.repositories import Repository
from kigi.domain.collection import LAYERS_PREFIX, StoredObject, StoredVersion, Upload
from kigi.errors import KigiError, RepositoryUnreachable


class BucketListing:
    """One bucket, as its client's credentials show it."""

    def __init__(self, repository: Repository, client: Any) -> None:
        self._repository = repository
        self._client = client
        self._bucket = repository.bucket

    async def objects(self) -> tuple[list[StoredObject], datetime]:
        """Every object with the key prefix of layers, and the server's time at the start of the listing."""
        found: list[StoredObject] = []
        began: datetime | None = None
        query = {"Bucket": self._bucket, "Prefix": LAYERS_PREFIX}
        while True:
            try:
                answer = await self._client.list_objects_v2(**query)
            except FAULTS as exc:
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
            except FAULTS as exc:
                raise self._translated(exc) from exc
            for item in answer.get("Uploads", ()):
                found.append(Upload(item["Key"], item["UploadId"], item["Initiated"]))
            if not answer.get("IsTruncated"):
                return found
            query["KeyMarker"], query["UploadIdMarker"] = answer["NextKeyMarker"], answer["NextUploadIdMarker"]

    async def keeps_versions(self) -> bool | None:
        """Whether the bucket keeps deleted objects as old versions; None: the user may not know."""
        try:
            answer = await self._client.get_bucket_versioning(Bucket=self._bucket)
        except FAULTS as exc:
            if has_status(exc, 403):
                return None
            if has_status(exc, 404, 405, 501):
                found = answer_of(exc)
                if found is None or found.code != "NoSuchBucket":
                    return False
            raise self._translated(exc) from exc
        return answer.get("Status") in ("Enabled", "Suspended")

    async def versions(self, prefix: str = LAYERS_PREFIX) -> list[StoredVersion]:
        """Every version and delete marker with that key prefix."""
        found: list[StoredVersion] = []
        query = {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            try:
                answer = await self._client.list_object_versions(**query)
            except FAULTS as exc:
                raise self._translated(exc) from exc
            for kind in ("Versions", "DeleteMarkers"):
                for item in answer.get(kind, ()):
                    size_bytes, is_marker = int(item.get("Size", 0)), kind == "DeleteMarkers"
                    version = (item["Key"], item["VersionId"], size_bytes, item["LastModified"], is_marker)
                    found.append(StoredVersion(*version))
            if not answer.get("IsTruncated"):
                return found
            query["KeyMarker"], query["VersionIdMarker"] = answer["NextKeyMarker"], answer["NextVersionIdMarker"]

    async def remove(self, item: StoredObject) -> bool:
        """Deletes the object; False if it was stored again since the listing, or is gone.

        S3 cannot make a deletion depend on the time, so the time is read right before the deletion.
        """
        try:
            if not await self._is_unchanged(item):
                return False
            await self._client.delete_object(Bucket=self._bucket, Key=item.key)
        except FAULTS as exc:
            if has_status(exc, 404):
                return False
            raise self._translated(exc) from exc
        return True

    async def remove_version(self, version: StoredVersion) -> bool:
        """Deletes one version or delete marker for good; False if the server refuses it (403), as under a retention."""
        try:
            await self._client.delete_object(Bucket=self._bucket, Key=version.key, VersionId=version.version_id)
        except FAULTS as exc:
            if has_status(exc, 403):
                return False
            if has_status(exc, 404):
                return True
            raise self._translated(exc) from exc
        return True

    async def _is_unchanged(self, item: StoredObject) -> bool:
        answer = await self._client.head_object(Bucket=self._bucket, Key=item.key)
        # An HTTP header has whole seconds, a listing may have more.
        return bool(abs(answer["LastModified"] - item.modified) < timedelta(seconds=1))

    async def abort(self, upload: Upload) -> None:
        """Aborts an unfinished upload and deletes its parts. An upload that has ended counts as success."""
        try:
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id)
        except FAULTS as exc:
            answer = answer_of(exc)
            if answer is not None and answer.code == "NoSuchUpload":
                return
            raise self._translated(exc) from exc

    def _where(self) -> str:
        return f"{self._repository.endpoint}: bucket {self._bucket}"

    def _translated(self, exc: BaseException, size_bytes: int | None = None) -> KigiError:
        return translated(self._repository, exc, size_bytes)


def _server_time(answer: Mapping[str, Any]) -> datetime:
    """The server's time of an answer: ages of objects must not depend on this machine's clock."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError) as exc:
        raise RepositoryUnreachable("the S3 server sends no Date header, so the age of objects is unknown") from exc
