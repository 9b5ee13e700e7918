"""Permission to store the layers of captures, as signed requests in a NodeCache; pure.

Nodes have no credentials that write. A daemon reports digest and size of the layer that its publisher has made; the
operator answers with a request that stores this content, if it is absent, and nothing else. So a request is
harmless, whoever reads it: it neither replaces a layer nor stores one under another digest.

A layer that is larger than what the server takes in one request is stored in parts, each under its own digest like a
layer. When all are stored, the operator reads them, and joins them only if they are that layer.

A node gets requests only for copies that are ordered from it, one layer for each. What a copy's first report names is
recorded in the NodeCache until the order ends, so that a stolen node cannot fill the repository with one capture. A
layer has one list of parts for each limit that the repository's settings have had meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kigi.api.conditions import bounded
from kigi.api.layer_upload import LayerUpload, PartUpload, SignedRequest
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.api.repositories import Repository
from kigi.domain.layer_parts import MAX_PARTS, digest_of_list, part_sizes
from kigi.domain.layers import MAX_FILE_BYTES, TABLES_BYTES, Digest, parse_digest
from kigi.domain.node_protocol import UploadRefused
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError
from kigi.planning.signed_uploads import request_of, seconds_to_renewal
from kigi.planning.steps import JoinParts

JOIN_RECHECK_S = 30.0
"""While a layer is joined from its parts: the daemon reports it when it is there."""
WRITER_RECHECK_S = 5.0
"""While the writer's Secret has not been read since the operator's start."""
MAX_REQUESTS = 64
"""Requests for one node at a time: a publisher stores one layer after another."""
MESSAGE_CHARACTERS = 300
"""Of a refusal: a NodeCache may have one for each of a thousand copies."""
NEVER = datetime.min.replace(tzinfo=UTC)
"""Time of a view that signs nothing."""
ANOTHER = "the node reports another layer of the same copy than before; delete the SystemCapture, and capture again"
CUT_AGAIN = "spec.limits.maxPutBytes of its LayerRepository has changed; the node makes other parts within minutes"
WAITING = ("Storing", "Refused")
"""States of a copy that has a layer which is not stored."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """What the decision on the uploads of one node reads."""

    reports: Mapping[str, CaptureReport] = field(default_factory=dict)
    """The daemon's reports by id of the copy."""
    writers: Mapping[str, Repository | KigiError] = field(default_factory=dict)
    """By name of the repository: its settings with the writer's credentials, or why there are none. A repository that
    is missing here has not been read yet."""
    now: datetime = NEVER
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why the parts of a copy's layer are not that layer, by the copy's id."""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Why the last attempt to join the parts of a copy's layer failed, which is tried again."""


def with_uploads(orders: Iterable[CaptureOrder], uploads: Uploads) -> tuple[list[CaptureOrder], float | None]:
    """The orders with their uploads, and the seconds until this must be decided again; None: when something changes.

    ``orders`` have the uploads of the present NodeCache. O(orders).
    """
    orders = list(orders)
    found = {order.id: _upload(order, uploads) if order.action == "Keep" else None for order in orders}
    left = MAX_REQUESTS
    for order in sorted(orders, key=lambda order: not _requests(order.upload)):
        if (wanted := len(_requests(found[order.id]))) <= left:
            left -= wanted
        else:
            found[order.id] = _without_requests(found[order.id])
    delays = [WRITER_RECHECK_S for order in orders if _awaits_writer(order, uploads)]
    delays += [seconds_to_renewal(each, uploads.now) for upload in found.values() for each in _requests(upload)[:1]]
    with_found = [
        order if found[order.id] == order.upload else order.model_copy(update={"upload": found[order.id]})
        for order in orders
    ]
    return with_found, min(delays, default=None)


def due_joins(node: str, orders: Iterable[CaptureOrder], uploads: Uploads) -> list[JoinParts]:
    """Layers to make of their parts, which the node has stored. ``orders``: as ``with_uploads`` gives them."""
    found = []
    for order in orders:
        upload, report = order.upload, uploads.reports.get(order.id)
        if upload is None or upload.parts_digest is None or report is None:
            continue
        if upload.reason is not None and order.id not in uploads.troubles:
            continue
        parts = _digests(report.parts)
        is_list = digest_of_list(parts) == upload.parts_digest and _has_limit(upload, uploads, order.repository_name)
        if report.state in WAITING and _is_uploaded(report) and is_list:
            repository, digest = order.repository_name, Digest(upload.digest)
            found.append(JoinParts(order.id, node, repository, digest, upload.size_bytes, parts))
    return found


def reported_uploads(reports: Mapping[str, CaptureReport]) -> frozenset[object]:
    """The part of reports that uploads depend on: each layer, its parts, and whether all of them are stored."""
    return frozenset(
        (report.id, report.state, report.digest, report.size_bytes, tuple(report.parts), _is_uploaded(report))
        for report in reports.values()
        if report.digest is not None
    )


def _upload(order: CaptureOrder, uploads: Uploads) -> LayerUpload | None:
    report = uploads.reports.get(order.id)
    reported = _reported(report)
    known = order.upload
    if known is None:
        if report is None or reported is None or report.state not in WAITING:
            return None
        known = LayerUpload(digest=reported[0], size_bytes=reported[1])
    memory = {"digest", "size_bytes", "parts_digest", "parts_of_bytes"}
    only = LayerUpload.model_validate(known.model_dump(include=memory))
    if report is None or report.state not in WAITING or reported is None:
        return only
    writer = uploads.writers.get(order.repository_name)
    if writer is None:
        return only.model_copy(update={"request": known.request, "parts": known.parts})
    if isinstance(writer, KigiError):
        return _refused(only, f"repository {order.repository_name} cannot be written to: {writer}")
    if refusal := _refusal(order, only, reported):
        return _refused(only, refusal)
    if only.size_bytes > writer.max_put_bytes:
        return _in_parts(only, known, report, writer, uploads)
    request = request_of(writer, only.digest, only.size_bytes, known.request, uploads.now)
    return only.model_copy(update={"request": request})


def _in_parts(
    only: LayerUpload, known: LayerUpload, report: CaptureReport, writer: Repository, uploads: Uploads
) -> LayerUpload:
    sizes, digests = part_sizes(only.size_bytes, writer.max_put_bytes), _digests(report.parts)
    if len(sizes) > MAX_PARTS or len(sizes) != len(digests):
        most, all_parts = format_bytes(writer.max_put_bytes), format_bytes(MAX_PARTS * writer.max_put_bytes)
        return _refused(
            only,
            f"its layer has {format_bytes(only.size_bytes)}; the repository takes {most} in one request "
            f"(spec.limits.maxPutBytes of its LayerRepository), and {all_parts} in parts that its node makes",
        )
    memory = digest_of_list(digests)
    is_other_limit = only.parts_of_bytes not in (None, writer.max_put_bytes)
    if only.parts_digest not in (None, memory) and not is_other_limit:
        return _refused(only, ANOTHER)
    if only.parts_digest == memory and is_other_limit:
        return _refused(only, CUT_AGAIN)
    if why := uploads.failed.get(report.id):
        return _refused(only, why)
    only = only.model_copy(update={"parts_digest": memory, "parts_of_bytes": writer.max_put_bytes})
    if _is_uploaded(report):
        return _refused(only, uploads.troubles[report.id]) if report.id in uploads.troubles else only
    present = {part.digest: part.request for part in known.parts}
    parts = [
        PartUpload(
            digest=digest, size_bytes=size, request=request_of(writer, digest, size, present.get(digest), uploads.now)
        )
        for digest, size in zip(digests, sizes, strict=True)
    ]
    return only.model_copy(update={"parts": parts})


def _has_limit(upload: LayerUpload, uploads: Uploads, repository: str) -> bool:
    """Whether its parts have the sizes that the repository's limit gives; unknown ones are compared at the join."""
    writer = uploads.writers.get(repository)
    if not isinstance(writer, Repository):
        return False
    return upload.size_bytes > writer.max_put_bytes and upload.parts_of_bytes in (None, writer.max_put_bytes)


def _digests(parts: Iterable[str]) -> tuple[Digest, ...]:
    """Digests of reported parts; none if one of them is no digest."""
    try:
        return tuple(parse_digest(part) for part in parts)
    except ValueError:
        return ()


def _is_uploaded(report: CaptureReport) -> bool:
    """Whether all bytes of the layer are in the repository, as a whole or in parts."""
    return bool(report.size_bytes) and report.uploaded_bytes >= (report.size_bytes or 0)


def _reported(report: CaptureReport | None) -> tuple[Digest, int] | None:
    """Digest and size of the layer in a report, if it has both; a daemon may report anything."""
    if report is None or report.digest is None or not report.size_bytes or report.size_bytes < 0:
        return None
    try:
        return parse_digest(report.digest), min(report.size_bytes, MAX_FILE_BYTES)
    except ValueError:
        return None


def _refusal(order: CaptureOrder, only: LayerUpload, reported: tuple[Digest, int]) -> str:
    """Why the layer must not be stored; empty: it may be."""
    if only.size_bytes > order.virtual_size_bytes + TABLES_BYTES:
        return f"the node reports a layer of {format_bytes(only.size_bytes)}, which is longer than its disk"
    return "" if reported == (only.digest, only.size_bytes) else ANOTHER


def _refused(only: LayerUpload, why: str) -> LayerUpload:
    message = bounded(why, MESSAGE_CHARACTERS)
    return only.model_copy(update={"reason": UploadRefused.reason, "message": message})


def _requests(upload: LayerUpload | None) -> list[SignedRequest]:
    """Requests of the layer or of its parts."""
    if upload is None:
        return []
    return [upload.request] if upload.request is not None else [part.request for part in upload.parts]


def _without_requests(upload: LayerUpload | None) -> LayerUpload | None:
    return upload.model_copy(update={"request": None, "parts": []}) if upload is not None else None


def _awaits_writer(order: CaptureOrder, uploads: Uploads) -> bool:
    """Whether the writer's credentials for a layer have not been read yet."""
    report = uploads.reports.get(order.id)
    waits = order.action == "Keep" and report is not None and report.state in WAITING
    return waits and _reported(report) is not None and order.repository_name not in uploads.writers
