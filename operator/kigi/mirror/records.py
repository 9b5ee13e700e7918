"""API objects as Kigi keeps them in memory: parsed once when they arrive, small, immutable."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from kigi.adapters import kubevirt
from kigi.adapters.kubernetes import resources
from kigi.api.base import Status
from kigi.api.capture import SystemCapture, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeployment, SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNode, VMImageNodeSpec, VMImageNodeStatus
from kigi.api.node_cache import CaptureReport, NodeCacheSpec, NodeCacheStatus
from kigi.api.prefetch import SystemPrefetch, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.system import SystemNode, SystemNodeSpec, SystemNodeStatus
from kigi.domain import names
from kigi.domain.images import Image
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.quantities import parse_quantity
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.errors import SpecInvalid
from kigi.planning import plugin
from kigi.planning.manifests import (
    ANNOTATION_HARDWARE_HASH,
    ANNOTATION_TEMPLATE_HASH,
    DEFAULT_MEMORY,
    HOOK_SIDECARS,
    LAUNCHER_OVERHEAD_BYTES,
    RUN_STRATEGIES,
)
from kigi.planning.view import KubeVirtState
from kigi.planning.wishes import Fingerprint

ANNOTATION_AVAILABLE = f"{names.GROUP}/volume-available"
"""On a claim: uid of its volume, written when that was available and the claim not bound; see reconcilers/claims."""

CACHE_SILENT_AFTER = timedelta(minutes=2)
"""A daemon writes its NodeCache at least every 30 s; four in a row missed, and it is taken for dead."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The part of metadata that every kind is handled by."""

    namespace: str | None
    name: str
    uid: str
    version: int
    """resourceVersion: of two states of one object the greater is the newer (Kubernetes KEP-5504)."""
    generation: int = 0
    deleting: bool = False
    finalizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A VMImageNode."""

    meta: Meta
    image: Image | SpecInvalid
    status: VMImageNodeStatus | None


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """A SystemNode."""

    meta: Meta
    system: System | SpecInvalid
    status: SystemNodeStatus | None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A SystemDeployment."""

    meta: Meta
    spec: SystemDeploymentSpec | SpecInvalid
    status: SystemDeploymentStatus | None
    changed_by: str = field(default="", compare=False)
    """Field manager that wrote the spec last."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """A SystemCapture."""

    meta: Meta
    spec: SystemCaptureSpec | SpecInvalid
    status: SystemCaptureStatus | None


@dataclass(frozen=True, slots=True)
class PrefetchRecord:
    """A SystemPrefetch."""

    meta: Meta
    spec: SystemPrefetchSpec | SpecInvalid
    status: SystemPrefetchStatus | None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A Node."""

    meta: Meta
    ready: bool
    schedulable: bool
    labels: Mapping[str, str]
    taints: tuple[tuple[str, str, str], ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CsiNodeRecord:
    """A CSINode: whether our daemon is registered with that node's kubelet."""

    meta: Meta
    has_driver: bool


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A NodeCache."""

    meta: Meta
    spec: NodeCacheSpec | None
    wanted_bytes: int
    observed_generation: int
    held: frozenset[Digest]
    fetching: Mapping[Digest, int]
    refused: Mapping[Digest, tuple[str, str]]
    volumes: frozenset[str]
    mounted: frozenset[str]
    """Those of ``volumes`` that a pod uses."""
    budget_bytes: int
    heartbeat: datetime | None
    captures: Mapping[str, CaptureReport]
    """Frozen copies of overlays, by id."""


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A PersistentVolume that carries our label."""

    meta: Meta
    owner_uid: str
    deployment: tuple[str, str]
    """(namespace, name) of its SystemDeployment."""
    instance: int
    machine: str
    disk: str
    """Empty: the one that the VM boots from."""
    revision: int
    node: str
    handle: str
    fingerprint: str
    system: str
    chain: Chain
    claim_bound: bool
    is_available: bool
    """Kubernetes' volume controller has seen it, and it is not bound yet."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A PersistentVolumeClaim that carries our label."""

    meta: Meta
    deployment: tuple[str, str]
    volume: str
    bound: bool
    touched_for: str
    """uid of the volume that was available when the claim was touched."""


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A VirtualMachine that carries our label."""

    meta: Meta
    owner_uid: str
    deployment: tuple[str, str]
    instance: int
    machine: str
    claim: str | None
    running: bool
    template_hash: str
    hardware: str
    sidecars: str
    halted_until: datetime | None
    memory_bytes: int | None
    """What it takes of its node; None if an instancetype says how much memory the guest has."""
    printable_status: str
    message: str


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A VirtualMachineInstance that carries our label."""

    meta: Meta
    deployment: tuple[str, str]
    claim: str | None
    hardware: str
    phase: str
    ready: bool
    paused: bool
    lasting: str
    """Field of its domain that keeps state beside its disks."""
    agent: bool
    """The agent inside the guest answers."""
    haunted: bool
    """virt-handler still remembers the last instance of that name, and refuses this one."""
    node: str | None
    message: str
    """Why its pod has no node, in the scheduler's words."""


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A NetworkPolicy that carries our label."""

    meta: Meta
    owner_uid: str
    deployment: tuple[str, str]
    instance: int
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KubeVirtRecord:
    """A KubeVirt installation, as the few fields that tell its hooks."""

    meta: Meta
    body: Mapping[str, Any] = field(compare=False)
    state: KubeVirtState


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """A KubeVirt Plugin."""

    meta: Meta
    intact: bool
    """Its spec is that of ours."""


@dataclass(frozen=True, slots=True)
class InstancetypeRecord:
    """A KubeVirt instancetype, of a namespace or of the cluster."""

    meta: Meta
    memory_bytes: int
    """Memory of the guest."""


Record = (
    ImageRecord
    | SystemRecord
    | DeploymentRecord
    | CaptureRecord
    | PrefetchRecord
    | NodeRecord
    | CsiNodeRecord
    | CacheRecord
    | VolumeRecord
    | ClaimRecord
    | MachineRecord
    | InstanceRecord
    | PolicyRecord
    | KubeVirtRecord
    | PluginRecord
    | InstancetypeRecord
)


def parse(kind: str, body: Mapping[str, Any]) -> Record:
    """The record of an object; a damaged one gives a record that says so. KeyError for a kind that is not mirrored."""
    return _PARSERS[kind](body, _meta(body["metadata"]))


def _meta(meta: Mapping[str, Any]) -> Meta:
    return Meta(
        namespace=meta.get("namespace"),
        name=meta["name"],
        uid=meta.get("uid", ""),
        version=int(meta.get("resourceVersion") or 0),
        generation=int(meta.get("generation") or 0),
        deleting=bool(meta.get("deletionTimestamp")),
        finalizers=tuple(meta.get("finalizers") or ()),
    )


def _image(body: Mapping[str, Any], meta: Meta) -> ImageRecord:
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


def _system(body: Mapping[str, Any], meta: Meta) -> SystemRecord:
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


def _deployment(body: Mapping[str, Any], meta: Meta) -> DeploymentRecord:
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


def _capture(body: Mapping[str, Any], meta: Meta) -> CaptureRecord:
    spec: SystemCaptureSpec | SpecInvalid
    try:
        spec = SystemCaptureSpec.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        spec = _invalid(SystemCapture.KIND, meta, exc)
    return CaptureRecord(meta, spec, _status(SystemCaptureStatus, body))


def _prefetch(body: Mapping[str, Any], meta: Meta) -> PrefetchRecord:
    spec: SystemPrefetchSpec | SpecInvalid
    try:
        spec = SystemPrefetchSpec.model_validate(body.get("spec") or {})
    except ValidationError as exc:
        spec = _invalid(SystemPrefetch.KIND, meta, exc)
    return PrefetchRecord(meta, spec, _status(SystemPrefetchStatus, body))


def _node(body: Mapping[str, Any], meta: Meta) -> NodeRecord:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return NodeRecord(
        meta=meta,
        ready=kubevirt.condition(body, "Ready").get("status") == "True",
        schedulable=not spec.get("unschedulable") and not meta.deleting,
        labels=dict(body["metadata"].get("labels") or {}),
        taints=tuple((t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()),
        memory_bytes=_bytes((status.get("allocatable") or {}).get("memory"), "0"),
    )


def _csi_node(body: Mapping[str, Any], meta: Meta) -> CsiNodeRecord:
    drivers = (body.get("spec") or {}).get("drivers") or ()
    return CsiNodeRecord(meta, any(driver.get("name") == names.CSI_DRIVER for driver in drivers))


def _cache(body: Mapping[str, Any], meta: Meta) -> CacheRecord:
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


def _volume(body: Mapping[str, Any], meta: Meta) -> VolumeRecord:
    metadata, spec = body["metadata"], body.get("spec") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    csi = spec.get("csi") or {}
    text = annotations.get(names.ANNOTATION_FINGERPRINT, "")
    fingerprint = Fingerprint.from_text(text)
    return VolumeRecord(
        meta=meta,
        owner_uid=annotations.get(names.ANNOTATION_OWNER, ""),
        deployment=_owner(labels),
        instance=_int(labels.get(names.LABEL_INSTANCE)),
        machine=labels.get(names.LABEL_MACHINE, ""),
        disk=labels.get(names.LABEL_DISK, ""),
        revision=_int(labels.get(names.LABEL_REVISION)),
        node=_affinity(spec),
        handle=csi.get("volumeHandle", ""),
        fingerprint=text,
        system=fingerprint.system if fingerprint else "",
        chain=_chain((csi.get("volumeAttributes") or {}).get("chain", "[]")),
        claim_bound=bool((spec.get("claimRef") or {}).get("uid")),
        is_available=(body.get("status") or {}).get("phase") == "Available",
    )


def _claim(body: Mapping[str, Any], meta: Meta) -> ClaimRecord:
    labels = body["metadata"].get("labels") or {}
    phase = (body.get("status") or {}).get("phase")
    return ClaimRecord(
        meta=meta,
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        volume=(body.get("spec") or {}).get("volumeName", ""),
        bound=phase == "Bound",
        touched_for=(body["metadata"].get("annotations") or {}).get(ANNOTATION_AVAILABLE, ""),
    )


def _machine(body: Mapping[str, Any], meta: Meta) -> MachineRecord:
    metadata, spec = body["metadata"], body.get("spec") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    of_template = ((spec.get("template") or {}).get("metadata") or {}).get("annotations") or {}
    template = (spec.get("template") or {}).get("spec") or {}
    memory = ((template.get("domain") or {}).get("memory") or {}).get("guest")
    typed = bool(spec.get("instancetype"))
    return MachineRecord(
        meta=meta,
        owner_uid=annotations.get(names.ANNOTATION_OWNER, ""),
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=_int(labels.get(names.LABEL_INSTANCE)),
        machine=labels.get(names.LABEL_MACHINE, ""),
        claim=kubevirt.root_claim(template.get("volumes"), names.DISK_VOLUME),
        running=spec.get("runStrategy") in RUN_STRATEGIES,
        template_hash=annotations.get(ANNOTATION_TEMPLATE_HASH, ""),
        hardware=of_template.get(ANNOTATION_HARDWARE_HASH, ""),
        sidecars=of_template.get(HOOK_SIDECARS, ""),
        halted_until=_time(annotations.get(names.ANNOTATION_HALTED_UNTIL)),
        memory_bytes=None if typed else _bytes(memory, DEFAULT_MEMORY) + LAUNCHER_OVERHEAD_BYTES,
        printable_status=(body.get("status") or {}).get("printableStatus", ""),
        message=kubevirt.trouble(body),
    )


def _instance(body: Mapping[str, Any], meta: Meta) -> InstanceRecord:
    labels, status = body["metadata"].get("labels") or {}, body.get("status") or {}
    return InstanceRecord(
        meta=meta,
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        claim=kubevirt.root_claim((body.get("spec") or {}).get("volumes"), names.DISK_VOLUME),
        hardware=(body["metadata"].get("annotations") or {}).get(ANNOTATION_HARDWARE_HASH, ""),
        phase=status.get("phase", ""),
        ready=kubevirt.condition(body, "Ready").get("status") == "True",
        paused=kubevirt.condition(body, "Paused").get("status") == "True",
        lasting=kubevirt.lasting_state(body),
        agent=kubevirt.condition(body, "AgentConnected").get("status") == "True",
        haunted=kubevirt.is_haunted(body),
        node=status.get("nodeName"),
        message=kubevirt.unscheduled(body),
    )


def _policy(body: Mapping[str, Any], meta: Meta) -> PolicyRecord:
    labels = body["metadata"].get("labels") or {}
    return PolicyRecord(
        meta=meta,
        owner_uid=(body["metadata"].get("annotations") or {}).get(names.ANNOTATION_OWNER, ""),
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=_int(labels.get(names.LABEL_INSTANCE)),
        spec=body.get("spec") or {},
    )


def _kubevirt(body: Mapping[str, Any], meta: Meta) -> KubeVirtRecord:
    developer = (body.get("spec") or {}).get("configuration", {}).get("developerConfiguration") or {}
    status = body.get("status") or {}
    kept = {
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        "spec": {"configuration": {"developerConfiguration": developer}},
        "status": {"observedKubeVirtVersion": status.get("observedKubeVirtVersion")},
    }
    return KubeVirtRecord(meta, kept, kubevirt.kubevirt_state([kept]))


def _plugin(body: Mapping[str, Any], meta: Meta) -> PluginRecord:
    return PluginRecord(meta, meta.name == plugin.NAME and body.get("spec") == plugin.build_plugin()["spec"])


def _instancetype(body: Mapping[str, Any], meta: Meta) -> InstancetypeRecord:
    memory = ((body.get("spec") or {}).get("memory") or {}).get("guest")
    return InstancetypeRecord(meta, _bytes(memory, DEFAULT_MEMORY))


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], Meta], Record]] = {
    resources.IMAGE.kind: _image,
    resources.SYSTEM.kind: _system,
    resources.DEPLOYMENT.kind: _deployment,
    resources.CAPTURE.kind: _capture,
    resources.PREFETCH.kind: _prefetch,
    resources.NODE.kind: _node,
    resources.CSI_NODE.kind: _csi_node,
    resources.NODE_CACHE.kind: _cache,
    resources.VOLUME.kind: _volume,
    resources.CLAIM.kind: _claim,
    resources.MACHINE.kind: _machine,
    resources.INSTANCE.kind: _instance,
    resources.POLICY.kind: _policy,
    resources.KUBEVIRT.kind: _kubevirt,
    resources.PLUGIN.kind: _plugin,
    resources.INSTANCETYPE.kind: _instancetype,
    resources.CLUSTER_INSTANCETYPE.kind: _instancetype,
}


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


def _owner(labels: Mapping[str, str]) -> tuple[str, str]:
    return (labels.get(names.LABEL_NAMESPACE, ""), labels.get(names.LABEL_DEPLOYMENT, ""))


def _affinity(spec: Mapping[str, Any]) -> str:
    """Node of a volume: our own nodeAffinity names exactly one."""
    terms = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or ()
    for term in terms:
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == names.TOPOLOGY_NODE and expression.get("values"):
                return str(expression["values"][0])
    return ""


@functools.lru_cache(maxsize=65536)
def _chain(text: str) -> Chain:
    """Chain of a volume's attributes, root first; volumes of the same image share one. Empty if it is damaged."""
    layers: list[Layer] = []
    parent: Digest | None = None
    try:
        for item in json.loads(text):
            layer = Layer(
                Digest(item["digest"]), item["sizeBytes"], item["virtualSizeBytes"], parent, item["repository"]
            )
            layers.append(layer)
            parent = layer.digest
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(layers)


@functools.lru_cache(maxsize=1024)
def _quantity(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError:
        return 0


def _time(value: object) -> datetime | None:
    """An RFC 3339 time with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _bytes(value: object, default: str) -> int:
    return _quantity(str(value) if value else default)


def _int(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        return 0
