"""Parses objects of Kubernetes' own kinds into records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters import kubevirt
from kigi.domain import names
from kigi.domain.chain_attribute import chain_from_text
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.observed import ClaimRecord, Meta, PolicyRecord, VolumeRecord
from kigi.mirror.parse_values import (
    annotations_of,
    bytes_of,
    deployment_of,
    int_of,
    labels_of,
    nested,
    owner_of,
    shared,
)
from kigi.mirror.records import ANNOTATION_AVAILABLE, CsiNodeRecord, NamespaceRecord, NodeRecord


def parse_namespace(body: Mapping[str, Any], meta: Meta) -> NamespaceRecord:
    """Record of a Namespace."""
    return NamespaceRecord(meta, dict(labels_of(body)))


def parse_node(body: Mapping[str, Any], meta: Meta) -> NodeRecord:
    """Record of a Node. A node that is being deleted is not schedulable."""
    spec = nested(body, "spec")
    return NodeRecord(
        meta=meta,
        ready=kubevirt.is_true(body, "Ready"),
        schedulable=not spec.get("unschedulable") and not meta.deleting,
        labels={shared(key): shared(value) for key, value in labels_of(body).items()},
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
        owner_uid=owner_of(annotations),
        deployment=deployment_of(shared(labels.get(names.LABEL_NAMESPACE, "")), labels),
        instance=shared(labels.get(names.LABEL_INSTANCE, "")),
        machine=shared(labels.get(names.LABEL_MACHINE, "")),
        disk=shared(labels.get(names.LABEL_DISK, "")),
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
        deployment=deployment_of(meta.namespace, labels_of(body)),
        instance=shared(labels_of(body).get(names.LABEL_INSTANCE, "")),
        volume=nested(body, "spec").get("volumeName", ""),
        bound=nested(body, "status").get("phase") == "Bound",
        touched_for=annotations_of(body).get(ANNOTATION_AVAILABLE, ""),
    )


def parse_policy(body: Mapping[str, Any], meta: Meta) -> PolicyRecord:
    """Record of a NetworkPolicy."""
    labels = labels_of(body)
    return PolicyRecord(
        meta=meta,
        owner_uid=owner_of(annotations_of(body)),
        deployment=deployment_of(meta.namespace, labels),
        instance=shared(labels.get(names.LABEL_INSTANCE, "")),
        spec=nested(body, "spec"),
    )


def _node_of(body: Mapping[str, Any]) -> str:
    """Node of a volume: the nodeAffinity that Kigi writes names exactly one. Empty if it names none."""
    for term in nested(body, "spec", "nodeAffinity", "required").get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == names.TOPOLOGY_NODE and expression.get("values"):
                return shared(str(expression["values"][0]))
    return ""
