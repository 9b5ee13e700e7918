"""Names of all objects that Kigi creates. They derive from the owner: after a crash, the same object is found again."""

from __future__ import annotations

import re
from collections.abc import Collection

GROUP = "kigi.dev"
VERSION = "v1alpha2"
API_VERSION = f"{GROUP}/{VERSION}"
NODE_GROUP = f"node.{GROUP}"
"""Group of the protocol between operator and daemons, whose versions are not those of the users' kinds."""
NODE_VERSION = "v1alpha1"
NODE_API_VERSION = f"{NODE_GROUP}/{NODE_VERSION}"
FIELD_MANAGER = "kigi-operator"
DEPLOYMENT_FINALIZER = f"{GROUP}/deployment-cleanup"
"""On a SystemDeployment: it stays until its SystemInstances, and what they left behind, are gone."""
EARLIER_FINALIZERS = {DEPLOYMENT_FINALIZER: (f"{GROUP}/finalizer",)}
"""Names that a finalizer had in earlier versions: an object that was being deleted when it was converted keeps them, as
the API server refuses new finalizers on it."""
INSTANCE_FINALIZER = f"{GROUP}/instance-cleanup"
"""On a SystemInstance: it stays until its VMs, disks and NetworkPolicy are gone."""
CAPTURE_FINALIZER = f"{GROUP}/capture-cleanup"
"""On a SystemCapture: it stays until its VMs are resumed, and a result that was begun is complete."""
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
MONITOR_DIRECTORY = "private"
"""Volume (an emptyDir) of a VM's pod that KubeVirt mounts for virt-launcher at /var/run/kubevirt-private."""
MONITOR_SOCKET = "kigi-qmp.sock"
"""Socket of the QMP monitor in it, by which the node's daemon stops and continues the VM."""
MONITOR_VALUE = f"unix:/var/run/kubevirt-private/{MONITOR_SOCKET},server=on,wait=off"
"""QEMU's argument for it, as hook and Plugin write it."""

INSTANCE_NAME = r"^[a-z0-9]{1,16}$"
"""Pattern of an instance's name. It has no hyphen, so that ``<deployment>-<instance>`` splits in one way only."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
"""On each object that the operator makes and keeps as desired, with the value ``kigi``."""
MANAGER = "kigi"
LABEL_DEPLOYMENT = f"{GROUP}/deployment"
"""On every object of an instance, also on its VMs' pods: name of the SystemDeployment."""
LABEL_NAMESPACE = f"{GROUP}/namespace"
"""On the same objects: namespace of the SystemDeployment, as volumes have none of their own."""
LABEL_INSTANCE = f"{GROUP}/instance"
"""On the same objects: name of the instance."""
LABEL_MACHINE = f"{GROUP}/machine"
"""On VMs, their pods, volumes and claims: name of the machine."""
LABEL_REVISION = f"{GROUP}/revision"
"""On volumes and claims: revision of the disk, from 1."""
LABEL_DISK = f"{GROUP}/disk"
"""On volumes and claims of extra disks: name of the disk."""
LABEL_ACCESS = f"{GROUP}/access"
"""On ServiceAccounts, Roles and RoleBindings that ``kigi access`` makes: name of the SystemInstance."""
ANNOTATION_ACCESS_EXPIRES = f"{GROUP}/access-expires"
"""On such a ServiceAccount: time at which its last token expires."""
ANNOTATION_ACCESS_BY = f"{GROUP}/access-given-by"
"""On the same: user who gave it."""
LABEL_HEARTBEAT = f"{NODE_GROUP}/heartbeat"
"""On the Lease that a daemon renews as its node's heartbeat, and on no other; empty."""
ANNOTATION_PEER_CERTIFICATES = f"{NODE_GROUP}/peer-certificates"
"""On the same Lease: SHA-256 fingerprints of the certificates that the node's daemon shows to its peers, 64 hexadecimal
digits each, separated by commas; two while one replaces the other."""
OPERATOR_LEASE = "kigi-operator"
"""Lease of the leading operator, in Kigi's namespace."""
ANNOTATION_VERSION = f"{GROUP}/version"
"""On the Lease ``kigi-operator``: version of Kigi that the leading operator runs."""
ANNOTATION_FINGERPRINT = f"{GROUP}/fingerprint"
"""On a PersistentVolume: the state that its overlay was created for; see ``domain.fingerprint``."""
ANNOTATION_OWNER = f"{GROUP}/instance-uid"
"""On what an instance has created: uid of its SystemInstance. Another object may have its name later."""
ANNOTATION_DEPLOYMENT_OWNER = f"{GROUP}/deployment-uid"
"""In its place on objects that were created before there were SystemInstances: uid of the SystemDeployment."""
ANNOTATION_HALTED_UNTIL = f"{GROUP}/halted-until"
"""On a VirtualMachine: time until which Kigi keeps it off, because KubeVirt refuses to start it."""
ANNOTATION_TEMPLATE_HASH = f"{GROUP}/template-hash"
"""On a VirtualMachine: hash of the template that the operator applied last."""
ANNOTATION_HARDWARE_HASH = f"{GROUP}/hardware-hash"
"""On a VM's template, from where KubeVirt copies it to each instance: see ``hardware_hash``."""
HOOK_SIDECARS = "hooks.kubevirt.io/hookSidecars"
"""On a VM's template: KubeVirt starts these sidecars in the VM's pod."""


def has_deployment_finalizer(finalizers: Collection[str]) -> bool:
    """Whether a SystemDeployment stays until Kigi has deleted what belongs to it."""
    return any(name in finalizers for name in (DEPLOYMENT_FINALIZER, *EARLIER_FINALIZERS[DEPLOYMENT_FINALIZER]))


def instance_order(instance: str) -> tuple[bool, int, str]:
    """Sort key of instance names: numbers by their value, and names after them."""
    is_number = instance.isascii() and instance.isdecimal()
    return (not is_number, int(instance) if is_number else 0, instance)


def instance_object(deployment: str, instance: str) -> str:
    """SystemInstance of an instance."""
    return f"{deployment}-{instance}"


def machine_name(deployment: str, instance: str, machine: str) -> str:
    """VirtualMachine, at most 58 characters: deployment and instance together <= 36, machine <= 20."""
    return f"{deployment}-{instance}-{machine}"


def claim_name(deployment: str, instance: str, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolumeClaim of one revision of a disk: the boot disk, or the extra disk ``disk``."""
    return f"{deployment}.{instance}.{machine}.r{revision}" + (f".{disk}" if disk else "")


def volume_name(namespace: str, deployment: str, instance: str, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolume of one revision of a disk. No part of the name contains a dot."""
    return f"kigi.{namespace}.{claim_name(deployment, instance, machine, revision, disk)}"


def volume_handle(volume: str, instance_uid: str) -> str:
    """CSI volume handle, and name of the overlay's directory on the node.

    It ends in the SystemInstance's uid: a recreated one of the same name never finds its predecessor's overlay.
    """
    return f"{volume}.{instance_uid[:8]}"


def volume_of_handle(handle: str) -> str | None:
    """Name of the PersistentVolume of a handle; None for a handle that is not of Kigi's form."""
    volume, _, uid = handle.rpartition(".")
    parts = volume.split(".")
    ours = len(parts) in (6, 7) and parts[0] == "kigi" and uid != ""
    ours = ours and re.fullmatch(INSTANCE_NAME, parts[3]) is not None
    return volume if ours and parts[5][:1] == "r" and parts[5][1:].isdigit() else None
