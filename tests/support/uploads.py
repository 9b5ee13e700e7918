"""The operator's part in an upload, for tests without an operator: it answers the layers that a node reports."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kigi.adapters.s3_join import join_parts
from kigi.api.layer_upload import SignedRequest
from kigi.api.node_cache import NodeCache
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, digest_of_hex
from kigi.domain.names import NODE_API_VERSION
from kigi.planning.signed_uploads import request_of
from kigi.planning.uploads import Uploads, due_joins, with_uploads
from kigi_cache.captures.uploads import MadeLayer
from localcluster.s3 import S3Server
from tests.support.raw_api import RawApi


def utc_now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def writer_of(s3: S3Server, bucket: str) -> Repository:
    """The bucket as a LayerRepository, with the credentials of its owner."""
    keys = s3.credentials
    return Repository(
        endpoint=s3.endpoint, bucket=bucket, access_key_id=keys.access_key, secret_access_key=keys.secret_key
    )


def answer_uploads(
    api: RawApi, node: str, writer: Repository | None, now: Callable[[], datetime] = utc_now
) -> list[str]:
    """One reconcile of the node's NodeCache by an operator; ids of copies that have a request. None: no writer yet.

    A copy with a layer was copied, so that its order is to Keep it.
    """
    path = f"/apis/{NODE_API_VERSION}/nodecaches/{node}"
    cache = NodeCache.model_validate(api.get(path).object())
    reports = {report.id: report for report in cache.status.captures}
    orders = [
        order.model_copy(update={"action": "Keep"}) if order.id in reports and reports[order.id].digest else order
        for order in cache.spec.captures
    ]
    uploads = Uploads(reports, {} if writer is None else {"default": writer}, now())
    found, _ = with_uploads(orders, uploads)
    if found != cache.spec.captures:
        api.patch(path, {"spec": {"captures": [order.to_api() for order in found]}}).object()
    for join in due_joins(node, found, uploads):
        assert writer is not None
        asyncio.run(join_parts(writer, None, join.digest, join.size_bytes, join.parts))
    return [order.id for order in found if order.upload is not None and order.upload.request is not None]


def layer_file(directory: Path, content: bytes, claimed: bytes | None = None) -> MadeLayer:
    """A file with that content, under the digest of ``claimed`` (default: its own)."""
    path = directory / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    claimed = content if claimed is None else claimed
    return MadeLayer(path, digest_of_hex(hashlib.sha256(claimed).hexdigest()), len(claimed))


def signed(writer: Repository, digest: Digest, size_bytes: int, at: datetime | None = None) -> SignedRequest:
    """A request as the operator signs it, at that time (default: now)."""
    return request_of(writer, digest, size_bytes, None, at or utc_now())
