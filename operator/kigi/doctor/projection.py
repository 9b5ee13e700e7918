"""The part of each object that a support archive has: listed fields, so that a new one is left out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kigi.adapters.kubernetes.installation import (
    CSI_DRIVER,
    DAEMONS,
    DEFINITION,
    OPERATOR,
    POD,
    POLICY_BINDING,
    VALIDATING_POLICY,
)
from kigi.adapters.kubernetes.resources import (
    CLAIM,
    CSI_NODE,
    KUBEVIRT,
    LEASE,
    MACHINE,
    NODE,
    PLUGIN,
    VMI,
    VOLUME,
)
from kigi.doctor.redaction import REMOVED
from kigi.domain import names

Body = Mapping[str, Any]
META = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)
KEPT_ANNOTATIONS = frozenset(
    {
        names.ANNOTATION_VERSION,
        names.ANNOTATION_FINGERPRINT,
        names.ANNOTATION_OWNER,
        names.ANNOTATION_DEPLOYMENT_OWNER,
        names.ANNOTATION_HALTED_UNTIL,
        names.ANNOTATION_TEMPLATE_HASH,
        names.ANNOTATION_HARDWARE_HASH,
        names.ANNOTATION_PEER_CERTIFICATES,
    }
)
LABEL_DOMAINS = ("kigi.dev", "kubernetes.io", "k8s.io", "kubevirt.io")
"""Labels below these domains keep their values; of others only the key stays."""
FREE = frozenset(
    {
        "patch",
        "description",
        "displayName",
        "userData",
        "networkData",
        "request",
        "run",
        "files",
        "userdata",
        "networkdata",
    }
)
"""Fields of Kigi's kinds that have users' own content, or signed requests."""
USERS_TEXT = frozenset({("SystemReset", "reason")})
"""The same, where other kinds have another meaning of the name."""
CONTAINER = ("name", "image", "imagePullPolicy", "resources")
STATUS_OF_POD = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "startTime")


def metadata_of(body: Body) -> dict[str, Any]:
    """Names, times, owners, and the labels and annotations that Kigi and Kubernetes define."""
    meta = body.get("metadata") or {}
    found = _pick(meta, *META)
    if meta.get("labels"):
        found["labels"] = {key: value if _is_known(key) else REMOVED for key, value in meta["labels"].items()}
    annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if key in KEPT_ANNOTATIONS}
    if annotations:
        found["annotations"] = annotations
    if meta.get("ownerReferences"):
        found["ownerReferences"] = [_pick(each, "kind", "name", "uid") for each in meta["ownerReferences"]]
    return found


def project(kind: str, body: Body) -> dict[str, Any]:
    """What the archive has of an object of a kind; its metadata alone for a kind that is not listed."""
    found = {"kind": kind, "metadata": metadata_of(body)}
    if str(body.get("apiVersion", "")).partition("/")[0] in (names.GROUP, names.NODE_GROUP):
        return found | {part: _own(kind, body[part], part) for part in ("spec", "status") if body.get(part)}
    if kind in _OTHERS:
        found |= _OTHERS[kind](body)
    return found


def project_event(event: Body) -> dict[str, Any]:
    """What the archive has of an event."""
    fields = ("type", "reason", "action", "note", "eventTime", "regarding", "related", "series")
    found = _pick(event, *fields)
    for name in ("regarding", "related"):
        if found.get(name):
            found[name] = _pick(found[name], "kind", "namespace", "name")
    return {"namespace": (event.get("metadata") or {}).get("namespace"), **found}


def _own(kind: str, value: Any, part: str) -> Any:
    """A spec or status of Kigi's kinds without users' own content."""
    if isinstance(value, dict):
        return {
            key: REMOVED if key in FREE or (part == "spec" and (kind, key) in USERS_TEXT) else _own(kind, each, part)
            for key, each in value.items()
        }
    return [_own(kind, each, part) for each in value] if isinstance(value, list) else value


def _is_known(key: str) -> bool:
    domain = key.partition("/")[0] if "/" in key else ""
    return any(domain == each or domain.endswith(f".{each}") for each in LABEL_DOMAINS)


def _pick(body: Body, *fields: str) -> dict[str, Any]:
    return {field: body[field] for field in fields if body.get(field) not in (None, "", [], {})}


def _status(body: Body, *fields: str) -> dict[str, Any]:
    return {"status": _pick(body.get("status") or {}, *fields)}


def _containers(spec: Body) -> list[dict[str, Any]]:
    return [_pick(each, *CONTAINER) for each in spec.get("containers") or ()]


def _pod(body: Body) -> dict[str, Any]:
    spec = body.get("spec") or {}
    shown = {**_pick(spec, "nodeName", "serviceAccountName"), "containers": _containers(spec)}
    return {"spec": shown, **_status(body, *STATUS_OF_POD)}


def _workload(body: Body) -> dict[str, Any]:
    spec = body.get("spec") or {}
    template = (spec.get("template") or {}).get("spec") or {}
    volumes = [{"name": each.get("name"), **_pick(each, "hostPath")} for each in template.get("volumes") or ()]
    shown = {**_pick(spec, "replicas"), "containers": _containers(template), "volumes": volumes}
    return {"spec": shown, "status": dict(body.get("status") or {})}


def _definition(body: Body) -> dict[str, Any]:
    versions = [_pick(each, "name", "served", "storage") for each in (body.get("spec") or {}).get("versions") or ()]
    return {"spec": {"versions": versions}, **_status(body, "conditions", "storedVersions")}


def _kubevirt(body: Body) -> dict[str, Any]:
    configuration = (body.get("spec") or {}).get("configuration") or {}
    developer = configuration.get("developerConfiguration") or {}
    shown = {
        "featureGates": developer.get("featureGates") or [],
        "disabled": developer.get("disabledFeatureGates") or [],
    }
    return {"spec": shown, **_status(body, "phase", "observedKubeVirtVersion", "conditions")}


def _node(body: Body) -> dict[str, Any]:
    shown = _pick(body.get("spec") or {}, "taints", "unschedulable")
    return {"spec": shown, **_status(body, "nodeInfo", "conditions", "capacity", "allocatable")}


def _volume(body: Body) -> dict[str, Any]:
    spec = body.get("spec") or {}
    csi = _pick(spec.get("csi") or {}, "driver", "volumeHandle")
    claim = _pick(spec.get("claimRef") or {}, "namespace", "name")
    return {"spec": {"csi": csi, "claimRef": claim, **_pick(spec, "capacity")}, **_status(body, "phase", "reason")}


def _machine(body: Body) -> dict[str, Any]:
    shown = _pick(body.get("spec") or {}, "runStrategy", "running")
    return {"spec": shown, **_status(body, "printableStatus", "created", "ready", "conditions", "startFailure")}


def _vmi(body: Body) -> dict[str, Any]:
    return _status(body, "phase", "reason", "nodeName", "conditions", "activePods", "phaseTransitionTimestamps")


_OTHERS: Mapping[str, Callable[[Body], dict[str, Any]]] = {
    POD.kind: _pod,
    OPERATOR.kind: _workload,
    DAEMONS.kind: _workload,
    DEFINITION.kind: _definition,
    KUBEVIRT.kind: _kubevirt,
    NODE.kind: _node,
    CSI_NODE.kind: lambda body: {"spec": {"drivers": (body.get("spec") or {}).get("drivers") or []}},
    CSI_DRIVER.kind: lambda body: {"spec": dict(body.get("spec") or {})},
    LEASE.kind: lambda body: {"spec": dict(body.get("spec") or {})},
    VOLUME.kind: _volume,
    CLAIM.kind: lambda body: _status(body, "phase", "conditions"),
    MACHINE.kind: _machine,
    VMI.kind: _vmi,
    PLUGIN.kind: lambda body: {},
    VALIDATING_POLICY.kind: lambda body: {
        "spec": _pick(body.get("spec") or {}, "failurePolicy", "matchConstraints"),
        **_status(body, "typeChecking", "conditions"),
    },
    POLICY_BINDING.kind: lambda body: {
        "spec": _pick(body.get("spec") or {}, "policyName", "validationActions", "matchResources")
    },
}
"""Kubernetes' and KubeVirt's kinds -> spec and status without templates, environments and users' data."""
