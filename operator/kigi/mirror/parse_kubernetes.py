"""Parses objects of Kubernetes' own kinds into records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters import kubevirt
from kigi.domain import names
from kigi.domain.chain_attribute import chain_from_text
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.observed import ClaimRecord, Meta, PolicyRecord, VolumeRecord
from kigi.mirror.parse_values import annotations_of, bytes_of, int_of, labels_of, nested
from kigi.mirror.records import ANNOTATION_AVAILABLE, CsiNodeRecord, NodeRecord


def parse_node(body: Mapping[str, Any], meta: Meta) -> NodeRecord:
    """Record of a Node. A node that is being deleted is not schedulable."""
    spec = nested(body, "spec")
    return NodeRecord(
        meta=meta,
        ready=kubevirt.is_true(body, "Ready"),
        schedulable=not spec.get("unschedulable") and not meta.deleting,
        labels=dict(labels_of(body)),
        taints=tuple((t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()),
        memory_bytes=bytes_of(nested(body, "status", "allocatable").get("memory"), "0"),
    )


def parse_csi_node(body: Mapping[str, Any], meta: Meta) -> CsiNodeRecord:
    """Record of a CSINode."""
    drivers = nested(body, "spec").get("drivers") or ()
    return CsiNodeRecord(meta, any(driver.get("name") == names.CSI_DRIVER for driver in drivers))


def parse_volume(body: Mapping[str, Any], meta: Meta) -> VolumeRecord:
    """Record of a PersistentVolume."""
    labels, annotations, csi = labels_of(body), annotations_of(body), nested(body, "spec", "csi")
    return VolumeRecord(
        meta=meta,
        owner_uid=annotations.get(names.ANNOTATION_OWNER, ""),
        deployment=(labels.get(names.LABEL_NAMESPACE, ""), labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=int_of(labels.get(names.LABEL_INSTANCE)),
        machine=labels.get(names.LABEL_MACHINE, ""),
        disk=labels.get(names.LABEL_DISK, ""),
        revision=int_of(labels.get(names.LABEL_REVISION)),
        node=_node_of(body),
        handle=csi.get("volumeHandle", ""),
        fingerprint=Fingerprint.from_text(annotations.get(names.ANNOTATION_FINGERPRINT, "")),
        chain=chain_from_text(nested(csi, "volumeAttributes").get("chain", "[]")),
        claim_bound=bool(nested(body, "spec", "claimRef").get("uid")),
        is_available=nested(body, "status").get("phase") == "Available",
    )


def parse_claim(body: Mapping[str, Any], meta: Meta) -> ClaimRecord:
    """Record of a PersistentVolumeClaim."""
    return ClaimRecord(
        meta=meta,
        deployment=(meta.namespace or "", labels_of(body).get(names.LABEL_DEPLOYMENT, "")),
        volume=nested(body, "spec").get("volumeName", ""),
        bound=nested(body, "status").get("phase") == "Bound",
        touched_for=annotations_of(body).get(ANNOTATION_AVAILABLE, ""),
    )


def parse_policy(body: Mapping[str, Any], meta: Meta) -> PolicyRecord:
    """Record of a NetworkPolicy."""
    labels = labels_of(body)
    return PolicyRecord(
        meta=meta,
        owner_uid=annotations_of(body).get(names.ANNOTATION_OWNER, ""),
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=int_of(labels.get(names.LABEL_INSTANCE)),
        spec=nested(body, "spec"),
    )


def _node_of(body: Mapping[str, Any]) -> str:
    """Node of a volume: the nodeAffinity that Kigi writes names exactly one. Empty if it names none."""
    for term in nested(body, "spec", "nodeAffinity", "required").get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == names.TOPOLOGY_NODE and expression.get("values"):
                return str(expression["values"][0])
    return ""
