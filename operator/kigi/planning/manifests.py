"""Manifests of what a deployment is made of: one PersistentVolume, one claim and one VM per machine."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kigi.api.deployment import Placement
from kigi.api.system import CloudInit, MachineNetwork, MachineTemplate, Readiness
from kigi.domain import names
from kigi.domain.chain_attribute import chain_text
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.kubevirt import DEFAULT_INSTANCETYPE, DEFAULT_MEMORY, LAUNCHER_OVERHEAD_BYTES, RUN_STRATEGIES, HookKind
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, ANNOTATION_TEMPLATE_HASH, HOOK_SIDECARS
from kigi.domain.quantities import parse_quantity
from kigi.domain.systems import ResolvedDisk, merge_patch
from kigi.errors import SpecInvalid
from kigi.planning.targets import MachineTarget

CLOUD_INIT = "cloud-init"
"""Volume and disk of a template's ``cloudInit``."""
_NO_TYPES: Mapping[tuple[str, str], int] = {}
_IDENTITY = uuid.UUID("6b696769-2e64-5576-8000-000000000000")
"""Namespace of firmware UUIDs; the bytes spell ``kigi.dev``."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The SystemDeployment that the objects belong to."""

    namespace: str
    name: str
    uid: str


def build_volume(
    owner: Owner,
    wish: MachineTarget,
    revision: int,
    node: str,
    fingerprint: Fingerprint,
    more: ResolvedDisk | None = None,
) -> dict[str, Any]:
    """Static PersistentVolume of one revision of a machine's disk, or of one ``more``.

    Its chain, node and fingerprint never change.
    """
    disk, chain = (more.name, more.chain) if more is not None else ("", wish.chain)
    name = names.volume_name(owner.namespace, owner.name, wish.instance, wish.machine, revision, disk)
    claim = names.claim_name(owner.name, wish.instance, wish.machine, revision, disk)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "labels": _labels(owner, wish.instance, wish.machine, revision, disk),
            "annotations": {
                names.ANNOTATION_FINGERPRINT: fingerprint.to_text(),
                names.ANNOTATION_OWNER: owner.uid,
            },
            "finalizers": [names.OVERLAY_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": str(chain[-1].virtual_size_bytes)},
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "storageClassName": names.STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": owner.namespace,
                "name": claim,
            },
            "csi": {
                "driver": names.CSI_DRIVER,
                "volumeHandle": names.volume_handle(name, owner.uid),
                "volumeAttributes": {"chain": chain_text(chain), "node": node},
            },
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": names.TOPOLOGY_NODE, "operator": "In", "values": [node]}]},
                    ]
                }
            },
        },
    }


def build_claim(owner: Owner, wish: MachineTarget, revision: int, more: ResolvedDisk | None = None) -> dict[str, Any]:
    """The claim that is bound to that volume beforehand."""
    disk, chain = (more.name, more.chain) if more is not None else ("", wish.chain)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.claim_name(owner.name, wish.instance, wish.machine, revision, disk),
            "namespace": owner.namespace,
            "labels": _labels(owner, wish.instance, wish.machine, revision, disk),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "storageClassName": names.STORAGE_CLASS,
            "volumeName": names.volume_name(owner.namespace, owner.name, wish.instance, wish.machine, revision, disk),
            "resources": {"requests": {"storage": str(chain[-1].virtual_size_bytes)}},
        },
    }


def build_machine(
    owner: Owner,
    wish: MachineTarget,
    revision: int,
    placement: Placement,
    hook: HookKind,
    hook_image: str,
    *,
    running: bool,
    until: datetime | None = None,
) -> dict[str, Any]:
    """VirtualMachine whose disk is that claim; name, MAC, firmware UUID and serial depend on its place alone.

    ``until``: it is kept off for so long. Raises SpecInvalid if the template is not one.
    """
    labels = _labels(owner, wish.instance, wish.machine)
    template = _instance_template(owner, wish, revision, placement)
    template["metadata"] = merge_patch({"labels": labels}, template.get("metadata", {}))
    template["metadata"]["labels"].update(labels)
    annotations = template["metadata"].setdefault("annotations", {})
    annotations[ANNOTATION_HARDWARE_HASH] = hardware_hash(wish)
    if hook == "Sidecar":
        annotations[HOOK_SIDECARS] = hook_annotation(hook_image)
    settings = _settings(wish)
    strategy = settings.run_strategy or RUN_STRATEGIES[0]
    spec: dict[str, Any] = {"runStrategy": strategy if running else "Halted", "template": template}
    for key, reference in (("instancetype", settings.instancetype), ("preference", settings.preference)):
        if reference is not None:
            spec[key] = reference.to_api()
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": names.machine_name(owner.name, wish.instance, wish.machine),
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": {
                ANNOTATION_TEMPLATE_HASH: template_hash(wish, placement, hook, hook_image),
                names.ANNOTATION_OWNER: owner.uid,
                **({names.ANNOTATION_HALTED_UNTIL: until.isoformat()} if until is not None else {}),
            },
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec,
    }


def hook_annotation(hook_image: str) -> str:
    """Value of the annotation that makes KubeVirt 1.7 and 1.8 start our disk hook beside the VM."""
    sidecar = {"image": hook_image, "imagePullPolicy": "IfNotPresent", "command": ["kigi-disk-hook"]}
    return json.dumps([sidecar], sort_keys=True)


def template_hash(wish: MachineTarget, placement: Placement, hook: HookKind, hook_image: str) -> str:
    """16 hex digits of everything in a VM but its claims, its name and whether it runs."""
    tolerations = [toleration.to_api() for toleration in placement.tolerations]
    disks = [[disk.name, disk.bus] for disk in wish.disks]
    text = json.dumps([wish.template, tolerations, hook, hook_image, *disks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hardware_hash(wish: MachineTarget) -> str:
    """16 hex digits of what a user may say of a running VM, but its disks' content: a change of it asks for a restart.

    What Kigi adds by itself (hook, claims, labels, defaults) is left out, so that no upgrade restarts a VM; so are the
    tolerations, which matter to a pod only until it has a node, and what is KubeVirt's and Kigi's business alone.
    """
    template = {key: value for key, value in wish.template.items() if key not in _NOT_HARDWARE}
    text = json.dumps([template, *([disk.name, disk.bus] for disk in wish.disks)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_NOT_HARDWARE = frozenset({"after", "runStrategy"})
"""Fields of a template that say when a VM is started, not what it is."""


def machine_memory_bytes(template: Mapping[str, Any], instancetypes: Mapping[tuple[str, str], int] = _NO_TYPES) -> int:
    """Bytes that one VM takes on its node, guest and launcher.

    ``instancetypes``: bytes of the guest's memory by kind and name; one that is not there counts as the default, and
    KubeVirt then refuses the VM.
    """
    guest: int | None = None
    if reference := template.get("instancetype"):
        guest = instancetypes.get((reference.get("kind") or DEFAULT_INSTANCETYPE, reference.get("name", "")))
    if guest is None:
        guest = _bytes_of(str(template.get("memory") or DEFAULT_MEMORY))
    return guest + LAUNCHER_OVERHEAD_BYTES


_bytes_of = functools.lru_cache(maxsize=256)(parse_quantity)


def firmware_uuid(owner: Owner, instance: int, machine: str) -> str:
    """UUID of a VM's firmware: the same for the same place, over resets, switches and re-creation."""
    return str(uuid.uuid5(_IDENTITY, f"{owner.namespace}/{owner.name}/{instance}/{machine}"))


def mac_address(owner: Owner, instance: int, machine: str, network: str) -> str:
    """Locally administered unicast MAC address of an interface, from its place alone."""
    digest = hashlib.sha256(f"{owner.namespace}/{owner.name}/{instance}/{machine}/{network}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _settings(wish: MachineTarget) -> MachineTemplate:
    try:
        return MachineTemplate.model_validate(dict(wish.template))
    except ValueError as exc:
        raise SpecInvalid(f"SystemNode {wish.system}: spec.machines[{wish.machine}].template: {exc}") from exc


def _instance_template(owner: Owner, wish: MachineTarget, revision: int, placement: Placement) -> dict[str, Any]:
    settings = _settings(wish)
    identity = firmware_uuid(owner, wish.instance, wish.machine)
    networks = settings.networks if settings.networks is not None else [MachineNetwork(name="pod")]
    disks, volumes = _disks(owner, wish, revision, settings)
    if settings.cloud_init is not None:
        disks.append({"name": CLOUD_INIT, "disk": {"bus": "virtio"}})
        volumes.append({"name": CLOUD_INIT, "cloudInitNoCloud": _cloud_init(settings.cloud_init)})
    domain: dict[str, Any] = {
        "firmware": {"uuid": identity, "serial": identity},
        "devices": {"disks": [*disks], "interfaces": [_interface(owner, wish, network) for network in networks]},
    }
    if not networks:
        domain["devices"]["autoattachPodInterface"] = False
    if settings.instancetype is None:
        domain["cpu"] = {"cores": settings.cpu or 1}
        domain["memory"] = {"guest": settings.memory or DEFAULT_MEMORY}
    spec: dict[str, Any] = {
        "domain": domain,
        "hostname": wish.machine,
        "networks": [_network(network) for network in networks],
        "volumes": [*volumes],
        "evictionStrategy": "None",
        "terminationGracePeriodSeconds": 30,
    }
    if settings.readiness is not None:
        spec["readinessProbe"] = _probe(settings.readiness)
    if placement.tolerations:
        spec["tolerations"] = [toleration.to_api() for toleration in placement.tolerations]
    template = merge_patch({"spec": spec}, settings.patch or {})
    _keep_first(template["spec"].setdefault("volumes", []), volumes)
    devices = template["spec"]["domain"]["devices"]
    _keep_first(devices.setdefault("disks", []), disks)
    if settings.preference is not None:
        # A preference's TPM may keep its state where no reset reaches it; KubeVirt takes it only where there is none.
        devices.setdefault("tpm", {"enabled": False})
    return template


def _disks(
    owner: Owner, wish: MachineTarget, revision: int, settings: MachineTemplate
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Disks and volumes of the VM that are ours, the one that it boots from first."""

    def volume(name: str, disk: str) -> dict[str, Any]:
        claim = names.claim_name(owner.name, wish.instance, wish.machine, revision, disk)
        return {"name": name, "persistentVolumeClaim": {"claimName": claim}}

    root = {"name": names.DISK_VOLUME, "bootOrder": settings.boot_order or 1}
    disks = [root | {"disk": {"bus": settings.disk_bus or "virtio"}}]
    volumes = [volume(names.DISK_VOLUME, "")]
    for more in wish.disks:
        disks.append({"name": names.DISK_PREFIX + more.name, "disk": {"bus": more.bus}})
        volumes.append(volume(names.DISK_PREFIX + more.name, more.name))
    return disks, volumes


def _probe(readiness: Readiness) -> dict[str, Any]:
    """KubeVirt's probe for it."""
    probe: dict[str, Any] = {}
    if readiness.guest_agent:
        probe["guestAgentPing"] = {}
    elif readiness.tcp_port is not None:
        probe["tcpSocket"] = {"port": readiness.tcp_port}
    elif readiness.http is not None:
        probe["httpGet"] = readiness.http.to_api()
    else:
        probe["exec"] = {"command": readiness.exec}
    numbers = readiness.to_api()
    for name in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"):
        if name in numbers:
            probe[name] = numbers[name]
    return probe


def _keep_first(items: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    """A patch replaces lists; the disks of the template's other fields stay in them, as we made them."""
    known = {item["name"] for item in ours}
    items[:] = [*ours, *(item for item in items if item.get("name") not in known)]


def _cloud_init(settings: CloudInit) -> dict[str, Any]:
    """KubeVirt's source for it."""
    source: dict[str, Any] = {}
    if settings.secret_name is not None:
        source = {"secretRef": {"name": settings.secret_name}}
    if settings.user_data is not None:
        source["userData"] = settings.user_data
    if settings.network_data is not None:
        source["networkData"] = settings.network_data
    return source


def _interface(owner: Owner, wish: MachineTarget, network: MachineNetwork) -> dict[str, Any]:
    mac = network.mac or mac_address(owner, wish.instance, wish.machine, network.name)
    # KubeVirt takes masquerade on the pod network alone.
    binding = network.binding or ("masquerade" if network.multus is None else "bridge")
    interface: dict[str, Any] = {"name": network.name, binding: {}, "macAddress": mac}
    if network.model is not None:
        interface["model"] = network.model
    return interface


def _network(network: MachineNetwork) -> dict[str, Any]:
    if network.multus is None:
        return {"name": network.name, "pod": {}}
    return {"name": network.name, "multus": {"networkName": network.multus}}


def instance_labels(owner: Owner, instance: int) -> dict[str, str]:
    """Labels of everything that belongs to one instance."""
    return {
        names.LABEL_NAMESPACE: owner.namespace,
        names.LABEL_DEPLOYMENT: owner.name,
        names.LABEL_INSTANCE: str(instance),
    }


def _labels(owner: Owner, instance: int, machine: str, revision: int | None = None, disk: str = "") -> dict[str, str]:
    labels = {**instance_labels(owner, instance), names.LABEL_MACHINE: machine}
    if revision is not None:
        labels[names.LABEL_REVISION] = str(revision)
    if disk:
        labels[names.LABEL_DISK] = disk
    return labels


def owner_reference(owner: Owner) -> dict[str, Any]:
    """Makes Kubernetes delete the object when its SystemDeployment is gone."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "SystemDeployment",
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
