"""What S3 credentials of a stolen node do to a real S3 server: every operation of S3, on every kind of object.

Two set-ups of a bucket are compared. ``Plain`` has the bucket policy that the example of a LayerRepository describes.
``Protected`` has versioning and object lock as well, as docs/security.md describes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore import UNSIGNED, xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.session import get_session

from localcluster.s3 import ROOT, Credentials, S3Server
from tests.campaigns.stolen_cluster import Outcome

USERS = {"reader": Credentials("stolen-reader", "stolen-reader-secret")}
USERS["writer"] = Credentials("stolen-writer", "stolen-writer-secret")
LAYERS = 12
SETUPS = ("plain", "protected")
OTHER = "other-repository"
RIGHTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "reader": (("s3:GetObject",), ("s3:ListBucket",)),
    "writer": (
        ("s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"),
        ("s3:ListBucket", "s3:ListBucketMultipartUploads"),
    ),
}
"""Rights on layers/* of the bucket, and on the bucket: manifests/examples/repositories.yaml has the same."""
SKIPPED = ("WriteGetObjectResponse", "CreateSession", "SelectObjectContent", "ListDirectoryBuckets")
SKIPPED += ("CreateBucketMetadataConfiguration", "CreateBucketMetadataTableConfiguration")
"""Operations of other services than a bucket's. versitygw takes the last two for a browser's form, with or without
credentials, and answers that its fields are missing."""
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def content(number: int, bucket: str = "") -> bytes:
    """Content of a layer."""
    return f"layer {number} {bucket}".encode() * 50


def key_of(data: bytes) -> str:
    """Key of a layer."""
    return f"layers/sha256/{hashlib.sha256(data).hexdigest()}"


def client_of(server: S3Server, user: Credentials | None) -> Any:
    """A client without retries; None: one that does not sign."""
    options: dict[str, Any] = {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 0}, "read_timeout": 20}
    options |= {"inject_host_prefix": False}
    keys: dict[str, str] = {}
    if user is None:
        options["signature_version"] = UNSIGNED
    else:
        keys = {"aws_access_key_id": user.access_key, "aws_secret_access_key": user.secret_key}
    return get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=server.endpoint, config=Config(**options), **keys
    )


@dataclass
class Buckets:
    """The server's buckets and the layers that are stored there."""

    server: S3Server
    root: Any
    keys: dict[str, list[str]] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    """An unfinished upload of another publisher in each bucket."""

    def damage(self, bucket: str) -> tuple[int, int]:
        """Layers that a node gets with another content or not at all; and those that no version has any more."""
        altered = lost = 0
        versions = self._versions(bucket)
        for key in self.keys[bucket]:
            is_latest_good = self._is_good(bucket, key)
            altered += not is_latest_good
            lost += not is_latest_good and not any(self._is_good(bucket, key, each) for each in versions.get(key, ()))
        return altered, lost

    def _versions(self, bucket: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if bucket == SETUPS[1]:
            for page in self.root.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for item in page.get("Versions", ()):
                    found.setdefault(item["Key"], []).append(item["VersionId"])
        return found

    def _is_good(self, bucket: str, key: str, version: str = "") -> bool:
        try:
            answer = self.root.get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
            return key_of(answer["Body"].read()) == key
        except ClientError:
            return False


def prepare(server: S3Server) -> Buckets:
    """Creates both set-ups, and a bucket of another repository."""
    root = client_of(server, ROOT)
    buckets = Buckets(server, root)
    for user in USERS.values():
        server.create_user(user)
    for bucket in (*SETUPS, OTHER):
        root.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=bucket == SETUPS[1])
        if bucket == SETUPS[1]:
            protect(root, bucket)
        if bucket != OTHER:
            root.put_bucket_policy(Bucket=bucket, Policy=policy(bucket))
        buckets.keys[bucket] = []
        for number in range(LAYERS):
            data = content(number, bucket)
            root.put_object(Bucket=bucket, Key=key_of(data), Body=data)
            buckets.keys[bucket].append(key_of(data))
        root.put_object(Bucket=bucket, Key="notes/readme", Body=b"not a layer")
        upload = root.create_multipart_upload(Bucket=bucket, Key=key_of(b"in progress"))
        buckets.uploads[bucket] = upload["UploadId"]
    return buckets


def protect(root: Any, bucket: str) -> None:
    """Versioning, and a default retention that only an administrator may bypass."""
    root.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    retention = {"Mode": "GOVERNANCE", "Days": 3650}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
    root.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=lock)


def policy(bucket: str) -> str:
    """The bucket policy of RIGHTS."""
    statements = []
    for name, (of_objects, of_bucket) in RIGHTS.items():
        principal = {"AWS": [USERS[name].access_key]}
        for actions, resource in ((of_objects, f"{bucket}/layers/*"), (of_bucket, bucket)):
            resources = f"arn:aws:s3:::{resource}"
            statements.append(
                {"Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": resources}
            )
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


Attempt = tuple[str, str, dict[str, Any]]
"""Operation, its target in the written list, and its parameters."""


def attempts(buckets: Buckets, bucket: str, seed: int) -> list[Attempt]:
    """Every operation on the bucket, and on layers, on other keys and on versions of it, in the order of the seed."""
    chance = random.Random(seed)
    stored = chance.sample(buckets.keys[bucket], 3)
    places = [("a stored layer", key) for key in stored]
    places += [("a new layer", key_of(b"new %d" % chance.randrange(10**9))), ("another key", "notes/readme")]
    model = get_session().get_service_model("s3")
    found: list[Attempt] = []
    for operation in (name for name in model.operation_names if name not in SKIPPED):
        shape = model.operation_model(operation).input_shape
        if shape is None:
            found.append((operation, "the server", {}))
        elif "Key" not in shape.members:
            found.append((operation, "the bucket", _parameters(shape, bucket, "", "")))
        else:
            for title, key in places:
                found.append((operation, title, _parameters(shape, bucket, key, buckets.uploads[bucket])))
    for title, key in places:
        found.extend(_forms(buckets, bucket, title, key))
    chance.shuffle(found)
    return found


def steal(buckets: Buckets, who: str, bucket: str, tries: list[Attempt]) -> Outcome:
    """Tries them with these credentials. What is neither refused nor unknown to the server counts as allowed."""
    client, outcome = client_of(buckets.server, USERS.get(who)), Outcome()
    place = "another repository" if bucket == OTHER else "its repository"
    for operation, target, parameters in [*tries, *_uploads(client, bucket, buckets.keys[bucket][0])]:
        outcome.note(operation, f"{target} of {place}", _try(client, operation, parameters))
    client.close()
    return outcome


_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccountProblem")


def _try(client: Any, operation: str, parameters: Mapping[str, Any]) -> str | None:
    try:
        answer = getattr(client, xform_name(operation.partition(" ")[0]))(**parameters)
        if "Errors" in answer and all(each["Code"] in _REFUSED for each in answer["Errors"]):
            return None
        return str(answer["ResponseMetadata"]["HTTPStatusCode"])
    except ParamValidationError as exc:
        raise AssertionError(f"{operation}: {exc}") from exc
    except ClientError as exc:
        code, status = exc.response["Error"]["Code"], exc.response["ResponseMetadata"]["HTTPStatusCode"]
        return None if status in (401, 403, 405, 501) else f"{status} {code}"
    except BotoCoreError as exc:
        return f"{type(exc).__name__}: {exc}"


def _uploads(client: Any, bucket: str, key: str) -> Iterator[Attempt]:
    """A whole upload in parts that replaces a layer; nothing if it cannot begin."""
    try:
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"other content")
    except ClientError:
        return
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    whole = {"Bucket": bucket, "Key": key, "UploadId": upload, "MultipartUpload": parts}
    yield "CompleteMultipartUpload", "a stored layer", whole


def _forms(buckets: Buckets, bucket: str, title: str, key: str) -> Iterator[Attempt]:
    """Other forms of operations that write, and reads of single versions."""
    put = {"Bucket": bucket, "Key": key, "Body": b"other content"}
    yield "PutObject", title, put
    yield "PutObject", title, put | {"Body": b""}
    yield "PutObject if absent", title, put | {"IfNoneMatch": "*"}
    yield "PutObject if unchanged", title, put | {"IfMatch": '"' + "0" * 32 + '"'}
    yield "PutObject with tags", title, put | {"Tagging": "a=b"}
    yield "PutObject with an ACL", title, put | {"ACL": "public-read"}
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": DAY.replace(year=2028)}
    yield "PutObject with a retention", title, put | lock
    yield "PutObject with a legal hold", title, put | {"ObjectLockLegalHoldStatus": "OFF"}
    other = buckets.keys[bucket][-1]
    for source in (f"{bucket}/{other}", f"{OTHER}/{buckets.keys[OTHER][0]}"):
        where = "from its repository" if source.startswith(bucket) else "from another repository"
        copy = {"Bucket": bucket, "Key": key, "CopySource": source}
        yield f"CopyObject {where}", title, copy
        part = copy | {"UploadId": buckets.uploads[bucket], "PartNumber": 1}
        yield f"UploadPartCopy {where}", title, part
    itself = {"Bucket": bucket, "Key": key, "CopySource": f"{bucket}/{key}", "MetadataDirective": "REPLACE"}
    yield "CopyObject to itself", title, itself
    for item in itertools.islice(buckets.root.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", ()), 1):
        version = {"Bucket": bucket, "Key": key, "VersionId": item["VersionId"]}
        for operation in ("GetObject", "HeadObject", "DeleteObject", "GetObjectTagging", "GetObjectAttributes"):
            extra = {"ObjectAttributes": ["ETag"]} if operation == "GetObjectAttributes" else {}
            yield f"{operation} of a version", title, version | extra
        yield "DeleteObject of a version with bypass", title, version | {"BypassGovernanceRetention": True}


def _parameters(shape: Shape, bucket: str, key: str, upload: str) -> dict[str, Any]:
    """Least valid parameters of an operation; dangerous ones where they are known."""
    assert isinstance(shape, StructureShape)
    known: dict[str, Any] = {
        "Bucket": bucket,
        "Key": key,
        "UploadId": upload,
        "PartNumber": 1,
        "Body": b"other content",
        "CopySource": f"{bucket}/{key}",
        "RenameSource": f"/{bucket}/{key}",
        "Delete": {"Objects": [{"Key": key or "layers/x"}]},
        "VersioningConfiguration": {"Status": "Suspended"},
        "Policy": policy(bucket).replace("s3:GetObject", "s3:*"),
        "ObjectLockConfiguration": {
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
        },
        "Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": DAY.replace(year=2028)},
        "LegalHold": {"Status": "OFF"},
        "LifecycleConfiguration": {
            "Rules": [{"ID": "all", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]
        },
        "ACL": "public-read",
        "BypassGovernanceRetention": True,
        "ObjectAttributes": ["ETag"],
        "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}]},
    }
    wanted = {*shape.required_members, *(set(shape.members) & (known.keys() - {"ACL"}))}
    wanted |= {"ACL"} & set(shape.members) if shape.name.endswith("AclRequest") else set()
    wanted |= set(shape.members) & {"CreateBucketConfiguration"} & set(shape.required_members)
    return {name: known[name] if name in known else _value(shape.members[name]) for name in sorted(wanted)}


def _value(shape: Shape) -> Any:
    """The least value of a shape."""
    if isinstance(shape, StructureShape):
        names = shape.required_members or list(shape.members)[:1]
        return {name: _value(shape.members[name]) for name in names}
    if isinstance(shape, ListShape):
        return [_value(shape.member)]
    if isinstance(shape, MapShape):
        return {"x": _value(shape.value)}
    choices = getattr(shape, "enum", None)
    if choices:
        return choices[0]
    return {"integer": 1, "long": 1, "boolean": False, "timestamp": DAY, "blob": b"x"}.get(
        shape.type_name, "x" * max(1, int(shape.metadata.get("min", 1)))
    )
