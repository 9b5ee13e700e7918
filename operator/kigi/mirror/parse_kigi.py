"""Records of Kigi's own kinds from their API objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from kigi.api.base import Status
from kigi.api.capture import SystemCapture, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeployment, SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNode, VMImageNodeSpec, VMImageNodeStatus
from kigi.api.node_cache import NodeCacheSpec, NodeCacheStatus
from kigi.api.prefetch import SystemPrefetch, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.system import SystemNode, SystemNodeSpec, SystemNodeStatus
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.observed import Meta
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.errors import SpecInvalid
from kigi.mirror.records import CacheRecord, CaptureRecord, DeploymentRecord, ImageRecord, PrefetchRecord, SystemRecord


def parse_image(body: Mapping[str, Any], meta: Meta) -> ImageRecord:
    """VMImageNode; the record holds SpecInvalid instead of the image if the spec does not validate."""
    image: Image | SpecInvalid
    try:
        spec = VMImageNodeSpec.model_validate(body.get("spec") or {})
        layer = spec.layer
        image = Image(
            name=meta.name,
            digest=Digest(layer.digest),
            size_bytes=layer.size_bytes,
            virtual_size_bytes=layer.virtual_size_bytes,
            parent=spec.parent.name if spec.parent else None,
            repository=layer.repository,
        )
    except ValidationError as exc:
        image = _invalid(VMImageNode.KIND, meta, exc)
    return ImageRecord(meta, image, _status(VMImageNodeStatus, body))


def parse_system(body: Mapping[str, Any], meta: Meta) -> SystemRecord:
    """SystemNode; the record holds SpecInvalid instead of the state if the spec does not validate."""
    system: System | SpecInvalid
    try:
        spec = SystemNodeSpec.model_validate(body.get("spec") or {})
        raw = {item["name"]: item for item in (body.get("spec") or {}).get("machines") or ()}
        system = System(
            name=meta.name,
            parent=spec.parent.name if spec.parent else None,
            machines=tuple(
                # The template stays as it was written: a null in it deletes what the parent state says.
                MachineChange(
                    m.name,
                    m.image.name if m.image else None,
                    raw[m.name].get("template"),
                    m.removed,
                    tuple(
                        DiskChange(d.name, d.image.name if d.image else None, d.bus, d.removed) for d in m.disks or ()
                    ),
                )
                for m in spec.machines
            ),
            networks=tuple(network.to_api() for network in spec.networks),
        )
    except ValidationError as exc:
        system = _invalid(SystemNode.KIND, meta, exc)
    return SystemRecord(meta, system, _status(SystemNodeStatus, body))


def parse_deployment(body: Mapping[str, Any], meta: Meta) -> DeploymentRecord:
    """SystemDeployment, with the field manager that wrote the spec last; SpecInvalid for an invalid spec."""
    spec: SystemDeploymentSpec | SpecInvalid
    try:
        spec = SystemDeploymentSpec.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        spec = _invalid(SystemDeployment.KIND, meta, exc)
    return DeploymentRecord(meta, spec, _status(SystemDeploymentStatus, body), spec_manager(body["metadata"]))


def spec_manager(metadata: Mapping[str, Any]) -> str:
    """The field manager that wrote to ``spec`` last, as ``managedFields`` say; empty if they do not."""
    writers = [
        (str(entry.get("time") or ""), str(entry.get("manager") or ""))
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource") and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    return max(writers, default=("", ""))[1]


def parse_capture(body: Mapping[str, Any], meta: Meta) -> CaptureRecord:
    """SystemCapture; the record holds SpecInvalid for an invalid spec."""
    spec: SystemCaptureSpec | SpecInvalid
    try:
        spec = SystemCaptureSpec.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        spec = _invalid(SystemCapture.KIND, meta, exc)
    return CaptureRecord(meta, spec, _status(SystemCaptureStatus, body))


def parse_prefetch(body: Mapping[str, Any], meta: Meta) -> PrefetchRecord:
    """SystemPrefetch; the record holds SpecInvalid for an invalid spec."""
    spec: SystemPrefetchSpec | SpecInvalid
    try:
        spec = SystemPrefetchSpec.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        spec = _invalid(SystemPrefetch.KIND, meta, exc)
    return PrefetchRecord(meta, spec, _status(SystemPrefetchStatus, body))


def parse_cache(body: Mapping[str, Any], meta: Meta) -> CacheRecord:
    """NodeCache; an invalid spec is None, and an invalid status counts as empty."""
    try:
        spec = NodeCacheSpec.model_validate(body.get("spec") or {})
    except ValidationError:
        spec = None
    status = _status(NodeCacheStatus, body) or NodeCacheStatus()
    return CacheRecord(
        meta=meta,
        spec=spec,
        wanted_bytes=sum(layer.size_bytes for layer in spec.layers) if spec else 0,
        observed_generation=status.observed_generation,
        held=frozenset(Digest(layer.digest) for layer in status.layers if layer.state == "Held"),
        fetching={Digest(x.digest): x.fetched_bytes for x in status.layers if x.state in ("Fetching", "Queued")},
        refused={
            Digest(x.digest): (x.reason or "Refused", x.message or "") for x in status.layers if x.state == "Refused"
        },
        volumes=frozenset(volume.name for volume in status.volumes),
        mounted=frozenset(volume.name for volume in status.volumes if volume.mounted),
        budget_bytes=status.budget_bytes,
        heartbeat=status.last_heartbeat_time,
        captures={report.id: report for report in status.captures},
    )


def _invalid(kind: str, meta: Meta, exc: ValidationError) -> SpecInvalid:
    first = exc.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return SpecInvalid(f"{kind} {meta.name}: spec.{where}: {first['msg']}; correct it")


S = TypeVar("S", bound=Status)


def _status(model: type[S], body: Mapping[str, Any]) -> S | None:
    try:
        return model.model_validate(body["status"]) if body.get("status") else None
    except ValidationError:
        return None
