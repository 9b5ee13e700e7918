"""Records of Kubernetes' kinds from their API objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters import kubevirt
from kigi.domain import names
from kigi.domain.chain_attribute import chain_from_text
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.observed import ClaimRecord, Meta, PolicyRecord, VolumeRecord
from kigi.mirror.parse_values import bytes_of, int_of
from kigi.mirror.records import ANNOTATION_AVAILABLE, CsiNodeRecord, NodeRecord


def parse_node(body: Mapping[str, Any], meta: Meta) -> NodeRecord:
    """Node: readiness, labels, taints and allocatable memory in bytes."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return NodeRecord(
        meta=meta,
        ready=kubevirt.condition(body, "Ready").get("status") == "True",
        schedulable=not spec.get("unschedulable") and not meta.deleting,
        labels=dict(body["metadata"].get("labels") or {}),
        taints=tuple((t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()),
        memory_bytes=bytes_of((status.get("allocatable") or {}).get("memory"), "0"),
    )


def parse_csi_node(body: Mapping[str, Any], meta: Meta) -> CsiNodeRecord:
    """CSINode: whether Kigi's driver is registered on the node."""
    drivers = (body.get("spec") or {}).get("drivers") or ()
    return CsiNodeRecord(meta, any(driver.get("name") == names.CSI_DRIVER for driver in drivers))


def parse_volume(body: Mapping[str, Any], meta: Meta) -> VolumeRecord:
    """PersistentVolume of Kigi's driver; a damaged chain or fingerprint is empty."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    csi = spec.get("csi") or {}
    return VolumeRecord(
        meta=meta,
        owner_uid=annotations.get(names.ANNOTATION_OWNER, ""),
        deployment=_owner(labels),
        instance=int_of(labels.get(names.LABEL_INSTANCE)),
        machine=labels.get(names.LABEL_MACHINE, ""),
        disk=labels.get(names.LABEL_DISK, ""),
        revision=int_of(labels.get(names.LABEL_REVISION)),
        node=_affinity(spec),
        handle=csi.get("volumeHandle", ""),
        fingerprint=Fingerprint.from_text(annotations.get(names.ANNOTATION_FINGERPRINT, "")),
        chain=chain_from_text((csi.get("volumeAttributes") or {}).get("chain", "[]")),
        claim_bound=bool((spec.get("claimRef") or {}).get("uid")),
        is_available=(body.get("status") or {}).get("phase") == "Available",
    )


def parse_claim(body: Mapping[str, Any], meta: Meta) -> ClaimRecord:
    """PersistentVolumeClaim of a deployment."""
    labels = body["metadata"].get("labels") or {}
    phase = (body.get("status") or {}).get("phase")
    return ClaimRecord(
        meta=meta,
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        volume=(body.get("spec") or {}).get("volumeName", ""),
        bound=phase == "Bound",
        touched_for=(body["metadata"].get("annotations") or {}).get(ANNOTATION_AVAILABLE, ""),
    )


def parse_policy(body: Mapping[str, Any], meta: Meta) -> PolicyRecord:
    """NetworkPolicy of an instance."""
    labels = body["metadata"].get("labels") or {}
    return PolicyRecord(
        meta=meta,
        owner_uid=(body["metadata"].get("annotations") or {}).get(names.ANNOTATION_OWNER, ""),
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=int_of(labels.get(names.LABEL_INSTANCE)),
        spec=body.get("spec") or {},
    )


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
