"""Manifests of disks: one static PersistentVolume and one claim each; labels and owner references of all objects."""

from __future__ import annotations

from typing import Any

from kigi.domain import kinds, names
from kigi.planning.placed import DiskTarget, Owner, PlacedTarget

ACCESS: dict[str, Any] = {
    "accessModes": ["ReadWriteOnce"],
    "volumeMode": "Filesystem",
    "storageClassName": names.STORAGE_CLASS,
}
"""Fields that volume and claim must share."""


def build_volume(owner: Owner, placed: PlacedTarget, disk: DiskTarget) -> dict[str, Any]:
    """Static PersistentVolume of one disk. Its chain, node and fingerprint never change."""
    return {
        "apiVersion": "v1",
        "kind": kinds.VOLUME,
        "metadata": {
            "name": disk.volume,
            "labels": disk_labels(owner, placed, disk),
            "annotations": {
                names.ANNOTATION_FINGERPRINT: placed.fingerprint.to_text(),
                names.ANNOTATION_OWNER: owner.uid,
            },
            "finalizers": [names.OVERLAY_FINALIZER],
        },
        "spec": {
            "capacity": _size(disk),
            **ACCESS,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": kinds.CLAIM,
                "namespace": owner.namespace,
                "name": disk.claim,
            },
            "csi": {
                "driver": names.CSI_DRIVER,
                "volumeHandle": names.volume_handle(disk.volume, owner.uid),
                "volumeAttributes": {"chain": disk.chain_text, "node": placed.node},
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [_on_node(placed.node)]}},
        },
    }


def build_claim(owner: Owner, placed: PlacedTarget, disk: DiskTarget) -> dict[str, Any]:
    """Claim that is bound to the disk's volume in advance."""
    return {
        "apiVersion": "v1",
        "kind": kinds.CLAIM,
        "metadata": {
            "name": disk.claim,
            "namespace": owner.namespace,
            "labels": disk_labels(owner, placed, disk),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {**ACCESS, "volumeName": disk.volume, "resources": {"requests": _size(disk)}},
    }


def instance_labels(owner: Owner) -> dict[str, str]:
    """Labels of every object of one instance."""
    return {
        names.LABEL_NAMESPACE: owner.namespace,
        names.LABEL_DEPLOYMENT: owner.deployment,
        names.LABEL_INSTANCE: owner.instance,
    }


def disk_labels(owner: Owner, placed: PlacedTarget, disk: DiskTarget) -> dict[str, str]:
    """Labels of the volume and claim of one disk; the mirror reads slot, revision and disk from them."""
    labels = {
        **instance_labels(owner),
        names.LABEL_MACHINE: placed.target.machine,
        names.LABEL_REVISION: str(placed.revision),
    }
    return {**labels, names.LABEL_DISK: disk.name} if disk.name else labels


def owner_reference(owner: Owner) -> dict[str, Any]:
    """Reference that makes Kubernetes delete the object after its SystemInstance."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.INSTANCE,
        "name": owner.object_name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _size(disk: DiskTarget) -> dict[str, str]:
    return {"storage": str(disk.chain[-1].virtual_size_bytes)}


def _on_node(node: str) -> dict[str, Any]:
    """Node selector term by the driver's topology label, see decision 9."""
    return {"matchExpressions": [{"key": names.TOPOLOGY_NODE, "operator": "In", "values": [node]}]}
