"""Names of everything that Kigi makes, derived from its owner, so that a crash finds the same object again."""

from __future__ import annotations

GROUP = "kigi.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "kigi-operator"
FINALIZER = f"{GROUP}/finalizer"
"""On a SystemDeployment: nothing that it made is left behind."""
IN_USE_FINALIZER = f"{GROUP}/in-use"
"""On a VMImageNode or SystemNode that something stands on: it is not gone before its last user is."""
OVERLAY_FINALIZER = f"{GROUP}/overlay"
"""On a PersistentVolume: its overlay is still on the node's disk."""
CSI_DRIVER = f"disk.{GROUP}"
TOPOLOGY_NODE = f"topology.{CSI_DRIVER}/node"
"""Label that the kubelet puts on its Node for the driver, with the node's name: what a volume's node affinity names."""
STORAGE_CLASS = "kigi-static"
"""No object of this name is needed: it only binds our PVs and PVCs to each other."""
DISK_PREFIX = "kigi-"
"""Of every volume of a VM that is ours; the disk hook touches only paths that contain ``/vmi-disks/kigi-``."""
DISK_VOLUME = f"{DISK_PREFIX}root"
"""Volume of the disk that the VM boots from."""

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_NAMESPACE = f"{GROUP}/namespace"
LABEL_INSTANCE = f"{GROUP}/instance"
LABEL_MACHINE = f"{GROUP}/machine"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_DISK = f"{GROUP}/disk"
"""On volumes and claims of disks beside the one that the VM boots from."""
ANNOTATION_FINGERPRINT = f"{GROUP}/fingerprint"
"""On a PersistentVolume: what the overlay was made for (image, state, reset tokens); another means a new revision."""
ANNOTATION_EQUALS = f"{GROUP}/equals"
"""On a VMImageNode that ``kigi flatten`` made: ``NAME@DIGEST`` of the image whose disk it has."""
ANNOTATION_OWNER = f"{GROUP}/deployment-uid"
ANNOTATION_HALTED_UNTIL = f"{GROUP}/halted-until"
ANNOTATION_CAPTURED_FROM = f"{GROUP}/captured-from"
"""On a VMImageNode or SystemNode that was captured: deployment/instance."""


def machine_name(deployment: str, instance: int, machine: str) -> str:
    """VirtualMachine, at most 58 characters: deployment <= 32, instance <= 4 digits, machine <= 20."""
    return f"{deployment}-{instance}-{machine}"


def claim_name(deployment: str, instance: int, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolumeClaim of one revision of a machine's disk: the one that it boots from, or a further one."""
    return f"{deployment}.{instance}.{machine}.r{revision}" + (f".{disk}" if disk else "")


def volume_name(namespace: str, deployment: str, instance: int, machine: str, revision: int, disk: str = "") -> str:
    """PersistentVolume of one revision of a disk; dots cannot occur inside the parts."""
    return f"kigi.{namespace}.{claim_name(deployment, instance, machine, revision, disk)}"


def volume_handle(volume: str, deployment_uid: str) -> str:
    """CSI volume handle, and the overlay's directory on the node.

    Ends in the deployment's uid, so that a deployment of the same name never finds its predecessor's overlay.
    """
    return f"{volume}.{deployment_uid[:8]}"


def volume_of_handle(handle: str) -> str | None:
    """Name of the PersistentVolume that a handle of ours was made for; None for a handle of another form."""
    volume, _, uid = handle.rpartition(".")
    parts = volume.split(".")
    ours = len(parts) in (6, 7) and parts[0] == "kigi" and uid != ""
    return volume if ours and parts[3].isdigit() and parts[5][:1] == "r" and parts[5][1:].isdigit() else None


ANNOTATION_TEMPLATE_HASH = f"{GROUP}/template-hash"


ANNOTATION_HARDWARE_HASH = f"{GROUP}/hardware-hash"
"""On a VM's template, from where KubeVirt copies it to each instance that it starts: see ``hardware_hash``."""


HOOK_SIDECARS = "hooks.kubevirt.io/hookSidecars"
