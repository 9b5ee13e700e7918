"""Names of all objects that Kigi creates. They derive from the owner: after a crash, the same object is found again."""

from __future__ import annotations

GROUP = "kigi.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "kigi-operator"
FINALIZER = f"{GROUP}/finalizer"
"""On a SystemDeployment: it stays until the objects that it owns are gone."""
IN_USE_FINALIZER = f"{GROUP}/in-use"
"""On a used VMImageNode or SystemNode: it stays until its last user is gone."""
OVERLAY_FINALIZER = f"{GROUP}/overlay"
"""On a PersistentVolume: it stays until its overlay is deleted from the node."""
CSI_DRIVER = f"disk.{GROUP}"
TOPOLOGY_NODE = f"topology.{CSI_DRIVER}/node"
"""Label that the kubelet sets on its Node for the driver, with the node's name; volumes' node affinity uses it."""
STORAGE_CLASS = "kigi-static"
"""Binds Kigi's volumes and claims to each other; no StorageClass of this name exists."""
DISK_PREFIX = "kigi-"
"""Begins the name of each of Kigi's volumes in a VM; the hook changes only paths with ``/vmi-disks/kigi-``."""
DISK_VOLUME = f"{DISK_PREFIX}root"
"""Volume of the boot disk."""

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_NAMESPACE = f"{GROUP}/namespace"
LABEL_INSTANCE = f"{GROUP}/instance"
LABEL_MACHINE = f"{GROUP}/machine"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_DISK = f"{GROUP}/disk"
"""On volumes and claims of extra disks."""
ANNOTATION_FINGERPRINT = f"{GROUP}/fingerprint"
"""On a PersistentVolume: the state that its overlay was created for; see ``domain.fingerprint``."""
ANNOTATION_EQUALS = f"{GROUP}/equals"
"""On a VMImageNode that ``kigi flatten`` created: ``NAME@DIGEST`` of the image with the same disk."""
ANNOTATION_OWNER = f"{GROUP}/deployment-uid"
ANNOTATION_HALTED_UNTIL = f"{GROUP}/halted-until"
ANNOTATION_TEMPLATE_HASH = f"{GROUP}/template-hash"
"""On a VirtualMachine: hash of the template that the operator applied last."""
ANNOTATION_HARDWARE_HASH = f"{GROUP}/hardware-hash"
"""On a VM's template, from where KubeVirt copies it to each instance: see ``hardware_hash``."""
HOOK_SIDECARS = "hooks.kubevirt.io/hookSidecars"
"""On a VM's template: KubeVirt starts these sidecars in the VM's pod."""
ANNOTATION_CAPTURED_FROM = f"{GROUP}/captured-from"
"""On a captured VMImageNode or SystemNode: deployment/instance."""


def machine_name(deployment: str, instance: int, machine: str) -> str:
    """VirtualMachine, at most 58 characters: deployment <= 32, instance <= 4 digits, machine <= 20."""
    return f"{deployment}-{instance}-{machine}"


def claim_name(deployment: str, instance: int, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolumeClaim of one revision of a disk: the boot disk, or the extra disk ``disk``."""
    return f"{deployment}.{instance}.{machine}.r{revision}" + (f".{disk}" if disk else "")


def volume_name(namespace: str, deployment: str, instance: int, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolume of one revision of a disk. No part of the name contains a dot."""
    return f"kigi.{namespace}.{claim_name(deployment, instance, machine, revision, disk)}"


def volume_handle(volume: str, deployment_uid: str) -> str:
    """CSI volume handle, and name of the overlay's directory on the node.

    It ends in the deployment's uid: a recreated deployment of the same name never finds its predecessor's overlay.
    """
    return f"{volume}.{deployment_uid[:8]}"


def volume_of_handle(handle: str) -> str | None:
    """Name of the PersistentVolume of a handle; None for a handle that is not of Kigi's form."""
    volume, _, uid = handle.rpartition(".")
    parts = volume.split(".")
    ours = len(parts) in (6, 7) and parts[0] == "kigi" and uid != ""
    return volume if ours and parts[3].isdigit() and parts[5][:1] == "r" and parts[5][1:].isdigit() else None
