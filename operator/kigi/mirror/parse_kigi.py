"""Parses objects of Kigi's own kinds into records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from kigi.api.base import Model, Status
from kigi.api.capture import SystemCapture, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeployment, SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNode, VMImageNodeSpec, VMImageNodeStatus
from kigi.api.node_cache import NodeCache, NodeCacheSpec, NodeCacheStatus
from kigi.api.prefetch import SystemPrefetch, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.system import SystemNode, SystemNodeSpec, SystemNodeStatus
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.observed import Meta
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.errors import SpecInvalid
from kigi.mirror.parse_values import nested
from kigi.mirror.records import CacheRecord, CaptureRecord, DeploymentRecord, ImageRecord, PrefetchRecord, SystemRecord


def parse_image(body: Mapping[str, Any], meta: Meta) -> ImageRecord:
    """Record of a VMImageNode."""
    spec = _spec(VMImageNodeSpec, VMImageNode.KIND, body, meta)
    image = _image(meta.name, spec) if isinstance(spec, VMImageNodeSpec) else spec
    return ImageRecord(meta, image, _status(VMImageNodeStatus, body))


def _image(name: str, spec: VMImageNodeSpec) -> Image:
    return Image(
        name=name,
        digest=Digest(spec.layer.digest),
        size_bytes=spec.layer.size_bytes,
        virtual_size_bytes=spec.layer.virtual_size_bytes,
        parent=spec.parent.name if spec.parent else None,
        repository=spec.layer.repository,
    )


def parse_system(body: Mapping[str, Any], meta: Meta) -> SystemRecord:
    """Record of a SystemNode."""
    spec = _spec(SystemNodeSpec, SystemNode.KIND, body, meta)
    system = _system(meta.name, spec, body) if isinstance(spec, SystemNodeSpec) else spec
    return SystemRecord(meta, system, _status(SystemNodeStatus, body))


def _system(name: str, spec: SystemNodeSpec, body: Mapping[str, Any]) -> System:
    # Templates stay as they were written: a null in one deletes a field of the parent state's template.
    templates = {item["name"]: item.get("template") for item in nested(body, "spec").get("machines") or ()}
    return System(
        name=name,
        parent=spec.parent.name if spec.parent else None,
        machines=tuple(
            MachineChange(
                machine.name,
                machine.image.name if machine.image else None,
                templates[machine.name],
                machine.removed,
                tuple(
                    DiskChange(disk.name, disk.image.name if disk.image else None, disk.bus, disk.removed)
                    for disk in machine.disks or ()
                ),
            )
            for machine in spec.machines
        ),
        networks=tuple(network.to_api() for network in spec.networks),
    )


def parse_deployment(body: Mapping[str, Any], meta: Meta) -> DeploymentRecord:
    """Record of a SystemDeployment."""
    spec = _spec(SystemDeploymentSpec, SystemDeployment.KIND, body, meta)
    return DeploymentRecord(meta, spec, _status(SystemDeploymentStatus, body), spec_manager(body["metadata"]))


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
    return CaptureRecord(meta, spec, _status(SystemCaptureStatus, body))


def parse_prefetch(body: Mapping[str, Any], meta: Meta) -> PrefetchRecord:
    """Record of a SystemPrefetch."""
    spec = _spec(SystemPrefetchSpec, SystemPrefetch.KIND, body, meta)
    return PrefetchRecord(meta, spec, _status(SystemPrefetchStatus, body))


def parse_cache(body: Mapping[str, Any], meta: Meta) -> CacheRecord:
    """Record of a NodeCache. A spec that does not validate is None, and is written again."""
    spec = _spec(NodeCacheSpec, NodeCache.KIND, body, meta)
    status = _status(NodeCacheStatus, body) or NodeCacheStatus()
    layers = status.layers
    return CacheRecord(
        meta=meta,
        spec=spec if isinstance(spec, NodeCacheSpec) else None,
        wanted_bytes=sum(layer.size_bytes for layer in spec.layers) if isinstance(spec, NodeCacheSpec) else 0,
        observed_generation=status.observed_generation,
        held=frozenset(Digest(layer.digest) for layer in layers if layer.state == "Held"),
        fetching={Digest(x.digest): x.fetched_bytes for x in layers if x.state in ("Fetching", "Queued")},
        refused={Digest(x.digest): (x.reason or "Refused", x.message or "") for x in layers if x.state == "Refused"},
        volumes=frozenset(volume.name for volume in status.volumes),
        mounted=frozenset(volume.name for volume in status.volumes if volume.mounted),
        budget_bytes=status.budget_bytes,
        heartbeat=status.last_heartbeat_time,
        captures={report.id: report for report in status.captures},
    )


M = TypeVar("M", bound=Model)
S = TypeVar("S", bound=Status)


def _spec(model: type[M], kind: str, body: Mapping[str, Any], meta: Meta) -> M | SpecInvalid:
    """The validated spec, or the error with its first invalid field."""
    try:
        return model.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return SpecInvalid(f"{kind} {meta.name}: spec.{where}: {first['msg']}; correct it")


def _status(model: type[S], body: Mapping[str, Any]) -> S | None:
    """The status; None if there is none, or if it does not validate: it is written again."""
    try:
        return model.model_validate(body["status"]) if body.get("status") else None
    except ValidationError:
        return None
