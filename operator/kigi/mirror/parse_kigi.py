"""Parses objects of Kigi's own kinds into records."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from kigi.adapters.bounded_json import MAX_VALUES, is_unread
from kigi.api.base import MAX_SPEC_BYTES, Model, Status
from kigi.api.capture import SystemCapture, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeployment, SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.grant import TreeGrant, TreeGrantSpec, TreeGrantStatus
from kigi.api.image import VMImageNode, VMImageNodeSpec, VMImageNodeStatus
from kigi.api.instance import SystemInstance, SystemInstanceSpec, SystemInstanceStatus
from kigi.api.layer_repository import LayerRepository, LayerRepositorySpec, LayerRepositoryStatus
from kigi.api.node_cache import NodeCache, NodeCacheSpec, NodeCacheStatus
from kigi.api.prefetch import SystemPrefetch, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.quota import SystemQuota, SystemQuotaSpec, SystemQuotaStatus
from kigi.api.reset import SystemReset, SystemResetSpec, SystemResetStatus
from kigi.api.system import SystemNode, SystemNodeSpec, SystemNodeStatus
from kigi.domain import kinds
from kigi.domain.declared import image_of, system_of
from kigi.domain.grants import Grant, GrantTarget
from kigi.domain.layers import Digest
from kigi.domain.observed import Meta
from kigi.domain.quantities import format_bytes
from kigi.domain.resets import ResetRequest
from kigi.errors import SpecInvalid, StatusInvalid
from kigi.mirror.limits import MAX_NAMESPACE_BYTES, OVER_LIMIT, NamespaceTooLarge
from kigi.mirror.parse_values import nested, shared
from kigi.mirror.records import (
    CacheRecord,
    CaptureRecord,
    DeploymentRecord,
    GrantRecord,
    ImageRecord,
    InstanceRecord,
    PrefetchRecord,
    QuotaRecord,
    RepositoryRecord,
    ResetRecord,
    SystemRecord,
)
from kigi.planning.capture_progress import UNREADABLE_REMEDY, progress_of


def parse_image(body: Mapping[str, Any], meta: Meta) -> ImageRecord:
    """Record of a VMImageNode."""
    spec = _spec(VMImageNodeSpec, VMImageNode.KIND, body, meta)
    image = _declared(image_of, body, meta) if isinstance(spec, VMImageNodeSpec) else spec
    return ImageRecord(meta, image, _status(VMImageNodeStatus, body))


def parse_system(body: Mapping[str, Any], meta: Meta) -> SystemRecord:
    """Record of a SystemNode."""
    spec = _spec(SystemNodeSpec, SystemNode.KIND, body, meta)
    system = _declared(system_of, body, meta) if isinstance(spec, SystemNodeSpec) else spec
    return SystemRecord(meta, system, _status(SystemNodeStatus, body))


def parse_grant(body: Mapping[str, Any], meta: Meta) -> GrantRecord:
    """Record of a TreeGrant."""
    spec = _spec(TreeGrantSpec, TreeGrant.KIND, body, meta)
    return GrantRecord(meta, _grant(spec) if isinstance(spec, TreeGrantSpec) else spec, _status(TreeGrantStatus, body))


def _grant(spec: TreeGrantSpec) -> Grant:
    targets = (GrantTarget(to.kind, to.name, bool(to.descendants)) for to in spec.to)
    return Grant(spec.from_.namespace_selector, tuple(targets))


def parse_deployment(body: Mapping[str, Any], meta: Meta) -> DeploymentRecord:
    """Record of a SystemDeployment."""
    spec = _spec(SystemDeploymentSpec, SystemDeployment.KIND, body, meta)
    status = _status(SystemDeploymentStatus, body)
    return DeploymentRecord(meta, spec, status, spec_manager(body["metadata"]))


def parse_instance(body: Mapping[str, Any], meta: Meta) -> InstanceRecord:
    """Record of a SystemInstance. Its identity is read even if the rest of the spec does not validate."""
    spec = nested(body, "spec")
    owners = body["metadata"].get("ownerReferences") or ()
    return InstanceRecord(
        meta=meta,
        deployment=shared((meta.namespace or "", shared(str(nested(spec, "deploymentRef").get("name", ""))))),
        name=shared(str(spec.get("name", ""))),
        owner_uids=tuple(str(owner.get("uid")) for owner in owners if owner.get("kind") == kinds.DEPLOYMENT),
        spec=_spec(SystemInstanceSpec, SystemInstance.KIND, body, meta),
        status=_status(SystemInstanceStatus, body),
        changed_by=spec_manager(body["metadata"]),
    )


def spec_manager(metadata: Mapping[str, Any]) -> str:
    """The field manager that wrote to ``spec`` last, by ``managedFields``; empty if they do not show it."""
    writers = [
        (str(entry.get("time") or ""), str(entry.get("manager") or ""))
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource") and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    return max(writers, default=("", ""))[1]


def parse_capture(body: Mapping[str, Any], meta: Meta) -> CaptureRecord:
    """Record of a SystemCapture."""
    spec = _spec(SystemCaptureSpec, SystemCapture.KIND, body, meta)
    instance = str(nested(body, "spec", "instanceRef").get("name", ""))
    try:
        status = SystemCaptureStatus.model_validate(body.get("status") or {})
        return CaptureRecord(meta, spec, status if body.get("status") else None, progress_of(status), instance)
    except ValidationError as exc:
        problem = StatusInvalid(f"status.{_first_error(exc)}; {UNREADABLE_REMEDY}")
    except StatusInvalid as exc:
        problem = exc
    reported = _status(Status, body) or Status()
    conditions = SystemCaptureStatus(**reported.model_dump())
    return CaptureRecord(meta, spec, conditions, problem, instance)


def parse_reset(body: Mapping[str, Any], meta: Meta) -> ResetRecord:
    """Record of a SystemReset. One without a time of creation is from no API server, and is as old as can be."""
    spec = _spec(SystemResetSpec, SystemReset.KIND, body, meta)
    return ResetRecord(
        meta=meta,
        deployment=(meta.namespace or "", str(nested(body, "spec", "deploymentRef").get("name", ""))),
        request=_request(meta, spec) if isinstance(spec, SystemResetSpec) else spec,
        ttl_s=spec.ttl_seconds_after_finished if isinstance(spec, SystemResetSpec) else None,
        status=_status(SystemResetStatus, body),
    )


def _request(meta: Meta, spec: SystemResetSpec) -> ResetRequest:
    return ResetRequest(
        name=meta.name,
        uid=meta.uid,
        created=meta.created or datetime.min.replace(tzinfo=UTC),
        deployment=spec.deployment_ref.name,
        instances=frozenset(spec.instances),
        machines=frozenset(spec.machines),
        requested_by=spec.requested_by,
    )


def parse_prefetch(body: Mapping[str, Any], meta: Meta) -> PrefetchRecord:
    """Record of a SystemPrefetch."""
    spec = _spec(SystemPrefetchSpec, SystemPrefetch.KIND, body, meta)
    return PrefetchRecord(meta, spec, _status(SystemPrefetchStatus, body))


def parse_repository(body: Mapping[str, Any], meta: Meta) -> RepositoryRecord:
    """Record of a LayerRepository."""
    spec = _spec(LayerRepositorySpec, LayerRepository.KIND, body, meta)
    return RepositoryRecord(meta, spec, _status(LayerRepositoryStatus, body))


def parse_quota(body: Mapping[str, Any], meta: Meta) -> QuotaRecord:
    """Record of a SystemQuota."""
    spec = _spec(SystemQuotaSpec, SystemQuota.KIND, body, meta)
    return QuotaRecord(meta, spec, _status(SystemQuotaStatus, body))


def parse_cache(body: Mapping[str, Any], meta: Meta) -> CacheRecord:
    """Record of a NodeCache. A spec that does not validate is None, and is written again."""
    spec = _spec(NodeCacheSpec, NodeCache.KIND, body, meta)
    status = _status(NodeCacheStatus, body) or NodeCacheStatus()
    layers = status.layers
    overlay_bytes = {each.name: max(0, each.overlay_bytes) for each in status.namespaces}
    return CacheRecord(
        meta=meta,
        spec=spec if isinstance(spec, NodeCacheSpec) else None,
        wanted_bytes=sum(layer.size_bytes for layer in spec.layers) if isinstance(spec, NodeCacheSpec) else 0,
        observed_generation=status.observed_generation,
        held=_shared_set(frozenset(shared(Digest(layer.digest)) for layer in layers if layer.state == "Held")),
        fetching={Digest(x.digest): x.fetched_bytes for x in layers if x.state in ("Fetching", "Queued")},
        refused={Digest(x.digest): (x.reason or "Refused", x.message or "") for x in layers if x.state == "Refused"},
        volumes=frozenset(volume.name for volume in status.volumes),
        mounted=frozenset(volume.name for volume in status.volumes if volume.mounted),
        budget_bytes=status.budget_bytes,
        usable_bytes=_usable_bytes(status),
        captures={report.id: report for report in status.captures},
        protocols=tuple(status.daemon.protocols) if status.daemon is not None else (),
        filling=frozenset(status.filling_volumes),
        overlay_bytes=overlay_bytes,
        disk_bytes=max(0, status.used_bytes) + max(0, status.free_bytes) + sum(overlay_bytes.values()),
        written_bytes={v.name: max(0, v.written_bytes) for v in status.volumes if v.written_bytes is not None},
    )


def _usable_bytes(status: NodeCacheStatus) -> int:
    """Bytes that layers may use: the budget, or what overlays and other files leave of the disk, if that is less."""
    if status.kept_free_bytes is None:
        return status.budget_bytes
    return min(status.budget_bytes, max(status.free_bytes + status.used_bytes - status.kept_free_bytes, 0))


@functools.lru_cache(maxsize=256)
def _shared_set(digests: frozenset[Digest]) -> frozenset[Digest]:
    """One set for all nodes that hold the same layers: it is smaller, and placement compares sets by identity first."""
    return digests


M = TypeVar("M", bound=Model)
S = TypeVar("S", bound=Status)
D = TypeVar("D")


def _spec(model: type[M], kind: str, body: Mapping[str, Any], meta: Meta) -> M | SpecInvalid:
    """The validated spec, or the error with its first invalid field."""
    if problem := _unread(kind, body.get("spec"), meta):
        return problem
    if kind == SystemNode.KIND and (size := len(json.dumps(body.get("spec")))) > MAX_SPEC_BYTES:
        return SpecInvalid(
            f"{kind} {meta.name}: spec: {size} bytes as JSON, at most {MAX_SPEC_BYTES}; move machines to another "
            "state, or long texts to Secrets"
        )
    try:
        return model.model_validate(body.get("spec") or {}, context={"namespace": meta.namespace})
    except ValidationError as exc:
        return SpecInvalid(f"{kind} {meta.name}: spec.{_first_error(exc)}; correct it")


def _unread(kind: str, spec: object, meta: Meta) -> SpecInvalid | None:
    if is_unread(spec):
        return SpecInvalid(f"{kind} {meta.name}: spec: it has more than {MAX_VALUES} values; shorten patches and lists")
    if isinstance(spec, Mapping) and spec.get(OVER_LIMIT) is True:
        return NamespaceTooLarge(
            f"{kind} {meta.name}: together the specs of namespace {meta.namespace} have more than "
            f"{format_bytes(MAX_NAMESPACE_BYTES)}, and this one is not read; delete objects, or use more namespaces"
        )
    return None


def _first_error(error: ValidationError) -> str:
    """Field and cause of the first error."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _declared(make: Callable[[str, Mapping[str, Any], str], D], body: Mapping[str, Any], meta: Meta) -> D | SpecInvalid:
    """The node of a tree, or the error of a field that the schema cannot check."""
    try:
        return make(meta.name, nested(body, "spec"), meta.namespace or "")
    except SpecInvalid as exc:
        return exc


def _status(model: type[S], body: Mapping[str, Any]) -> S | None:
    """The status; None if there is none, or if it does not validate: it is written again."""
    if is_unread(body.get("status")):
        return None
    try:
        return model.model_validate(body["status"]) if body.get("status") else None
    except ValidationError:
        return None
