"""Manifest of one VirtualMachine: its settings as KubeVirt spells them, its disks, and its fixed identity."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kigi.api.machine_hardware import POD_NETWORK, CloudInit, Cpu, Hardware, Interface
from kigi.api.placement import Placement
from kigi.domain import kinds, names
from kigi.domain.kubevirt import (
    DEFAULT_INSTANCETYPE,
    DEFAULT_MEMORY,
    LAUNCHER_OVERHEAD_BYTES,
    HookKind,
    run_strategy_of,
)
from kigi.domain.machine_patch import apply_patch
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, ANNOTATION_TEMPLATE_HASH, HOOK_SIDECARS
from kigi.domain.quantities import parse_quantity
from kigi.errors import SpecInvalid
from kigi.planning.manifests import instance_labels, owner_reference
from kigi.planning.placed import Owner, PlacedTarget
from kigi.planning.targets import MachineTarget

CLOUD_INIT = "cloud-init"
"""Name of the volume and disk of ``cloudInit``."""
_DEFAULT_INTERFACE = Interface(name=POD_NETWORK, network_name=POD_NETWORK)
_NO_TYPES: Mapping[tuple[str, str], int] = {}
_IDENTITY = uuid.UUID("6b696769-2e64-5576-8000-000000000000")
"""Namespace of firmware UUIDs; the bytes spell ``kigi.dev``."""


@dataclass(frozen=True, slots=True)
class VmSettings:
    """Fields of a VM that its target does not define."""

    placement: Placement
    hook: HookKind
    hook_image: str
    running: bool
    halted_until: datetime | None = None
    """Time that the VM must stay off until; recorded in an annotation for the next reconcile."""


def build_machine(owner: Owner, placed: PlacedTarget, settings: VmSettings) -> dict[str, Any]:
    """VirtualMachine on the disks of ``placed``.

    Name, MAC addresses, firmware UUID and serial number depend on the slot only: a reset does not change them.
    Raises SpecInvalid if the inherited hardware does not validate.
    """
    target = placed.target
    labels = {**instance_labels(owner), names.LABEL_MACHINE: target.machine}
    hardware = _hardware(target)
    template = _instance_template(owner, placed, hardware, settings.placement)
    template["metadata"] = merge_patch({"labels": labels}, template.get("metadata", {}))
    template["metadata"]["labels"].update(labels)
    annotations = template["metadata"].setdefault("annotations", {})
    annotations[ANNOTATION_HARDWARE_HASH] = target.blueprint.hardware_hash
    if settings.hook == "Sidecar":
        annotations[HOOK_SIDECARS] = hook_annotation(settings.hook_image)
    strategy = run_strategy_of(target.blueprint.machine.settings.get("guestPowerOffPolicy"))
    spec: dict[str, Any] = {"runStrategy": strategy if settings.running else "Halted", "template": template}
    for key, reference in (("instancetype", hardware.instancetype_ref), ("preference", hardware.preference_ref)):
        if reference is not None:
            spec[key] = reference.to_api()
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": kinds.MACHINE,
        "metadata": {
            "name": target.vm_name,
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": _vm_annotations(owner, target, settings.halted_until),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec,
    }


def hook_annotation(hook_image: str) -> str:
    """Value of the annotation that makes KubeVirt 1.7 and 1.8 start the disk hook beside the VM."""
    sidecar = {"image": hook_image, "imagePullPolicy": "IfNotPresent", "command": ["kigi-disk-hook"]}
    return json.dumps([sidecar], sort_keys=True)


def machine_memory_bytes(hardware: Mapping[str, Any], instancetypes: Mapping[tuple[str, str], int] = _NO_TYPES) -> int:
    """Memory that one VM takes on its node, guest and launcher, in bytes.

    ``instancetypes``: guest memory in bytes by (kind, name). A missing instancetype counts as the default memory;
    KubeVirt then refuses the VM.
    """
    guest: int | None = None
    if reference := hardware.get("instancetypeRef"):
        guest = instancetypes.get((reference.get("kind") or DEFAULT_INSTANCETYPE, reference.get("name", "")))
    if guest is None:
        guest = _bytes_of(str((hardware.get("memory") or {}).get("guest") or DEFAULT_MEMORY))
    return guest + LAUNCHER_OVERHEAD_BYTES


_bytes_of = functools.lru_cache(maxsize=256)(parse_quantity)


def firmware_uuid(owner: Owner, target: MachineTarget) -> str:
    """Firmware UUID of the VM: the same for the same slot after resets, switches and re-creation."""
    return str(uuid.uuid5(_IDENTITY, _identity(owner, target)))


def mac_address(owner: Owner, target: MachineTarget, interface: str) -> str:
    """Locally administered unicast MAC address of an interface, derived from the slot only."""
    digest = hashlib.sha256(f"{_identity(owner, target)}/{interface}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _identity(owner: Owner, target: MachineTarget) -> str:
    return f"{owner.namespace}/{owner.deployment}/{owner.instance}/{target.machine}"


def _vm_annotations(owner: Owner, target: MachineTarget, halted_until: datetime | None) -> dict[str, str]:
    annotations = {ANNOTATION_TEMPLATE_HASH: target.blueprint.template_hash, names.ANNOTATION_OWNER: owner.uid}
    if halted_until is not None:
        annotations[names.ANNOTATION_HALTED_UNTIL] = halted_until.isoformat()
    return annotations


def _hardware(target: MachineTarget) -> Hardware:
    try:
        return Hardware.model_validate(dict(target.blueprint.machine.hardware))
    except ValueError as exc:
        raise SpecInvalid(f"SystemNode {target.system}: spec.machines[{target.machine}].hardware: {exc}") from exc


def _instance_template(owner: Owner, placed: PlacedTarget, hardware: Hardware, placement: Placement) -> dict[str, Any]:
    """The VMI template: Kigi's fields, the patch over them, and Kigi's disks again, as a patch replaces lists."""
    settings = placed.target.blueprint.machine.settings
    disks, volumes = _disks(placed)
    if hardware.cloud_init is not None:
        disks.append({"name": CLOUD_INIT, "disk": {"bus": "virtio"}})
        volumes.append({"name": CLOUD_INIT, "cloudInitNoCloud": _cloud_init(hardware.cloud_init)})
    interfaces = hardware.interfaces if hardware.interfaces is not None else [_DEFAULT_INTERFACE]
    spec: dict[str, Any] = {
        "domain": _domain(owner, placed.target, hardware, interfaces, disks),
        "hostname": placed.target.machine,
        "networks": [_network(placed.target, interface) for interface in interfaces],
        "volumes": [*volumes],
        "evictionStrategy": "None",
        "terminationGracePeriodSeconds": 30,
    }
    if probe := settings.get("readinessProbe"):
        spec["readinessProbe"] = _probe(probe)
    if architecture := placed.target.blueprint.machine.guest.architecture:
        spec["architecture"] = architecture
    if placement.tolerations:
        spec["tolerations"] = [toleration.to_api() for toleration in placement.tolerations]
    template = apply_patch({"spec": spec}, settings.get("patch") or {})
    template["spec"]["volumes"] = _ours_first(template["spec"].get("volumes", ()), volumes)
    devices = template["spec"]["domain"]["devices"]
    devices["disks"] = _ours_first(devices.get("disks", ()), disks)
    if hardware.preference_ref is not None:
        # A preference's TPM may keep its state where no reset reaches it; KubeVirt adds it only where there is none.
        devices.setdefault("tpm", {"enabled": False})
    return template


def _domain(
    owner: Owner,
    target: MachineTarget,
    hardware: Hardware,
    interfaces: list[Interface],
    disks: list[dict[str, Any]],
) -> dict[str, Any]:
    identity = firmware_uuid(owner, target)
    domain: dict[str, Any] = {
        "firmware": {"uuid": identity, "serial": identity},
        "devices": {
            "disks": [*disks],
            "interfaces": [_interface(owner, target, interface) for interface in interfaces],
        },
    }
    if not interfaces:
        domain["devices"]["autoattachPodInterface"] = False
    if hardware.instancetype_ref is None:
        domain["cpu"] = {"cores": 1, **(hardware.cpu or Cpu()).to_api()}
        domain["memory"] = {"guest": hardware.memory.guest if hardware.memory else DEFAULT_MEMORY}
    return domain


def _disks(placed: PlacedTarget) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """KubeVirt's disks and volumes for the disks of ``placed``, the root disk first."""
    root = placed.target.blueprint.machine.settings.get("rootDisk") or {}
    disks: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    for disk in placed.disks:
        name = names.DISK_PREFIX + disk.name if disk.name else names.DISK_VOLUME
        bus = disk.bus if disk.name else root.get("bus") or "virtio"
        order = disk.boot_order if disk.name else root.get("bootOrder") or 1
        disks.append({"name": name, **({"bootOrder": order} if order else {}), "disk": {"bus": bus}})
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": disk.claim}})
    return disks, volumes


def _probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    """KubeVirt's readiness probe, which has the same shape; the defaults of an HTTP request are written out."""
    if "httpGet" in probe:
        return {**probe, "httpGet": {"path": "/", "scheme": "HTTP", **probe["httpGet"]}}
    return dict(probe)


def _ours_first(items: Iterable[Mapping[str, Any]], ours: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """``ours``, then the other items without those of the same names: a patch may only add entries."""
    known = {item["name"] for item in ours}
    return [*ours, *(item for item in items if item.get("name") not in known)]


def _cloud_init(settings: CloudInit) -> dict[str, Any]:
    """KubeVirt's cloud-init volume source.

    A Secret is named for both kinds of data: KubeVirt reads ``userdata`` by ``secretRef`` only, and ``networkdata`` by
    ``networkDataSecretRef`` only. It starts the VM if at least one of the keys exists.
    """
    built = settings.to_api()
    return {**built, "networkDataSecretRef": built["secretRef"]} if "secretRef" in built else built


def _interface(owner: Owner, target: MachineTarget, interface: Interface) -> dict[str, Any]:
    mac = interface.mac_address or mac_address(owner, target, interface.name)
    # KubeVirt accepts masquerade on the pod network only.
    binding = interface.binding or ("Masquerade" if interface.network_name == POD_NETWORK else "Bridge")
    built: dict[str, Any] = {"name": interface.name, binding.lower(): {}, "macAddress": mac}
    if interface.model is not None:
        built["model"] = interface.model
    return built


def _network(target: MachineTarget, interface: Interface) -> dict[str, Any]:
    if interface.network_name == POD_NETWORK:
        return {"name": interface.name, "pod": {}}
    multus = target.blueprint.machine.networks[interface.network_name]
    return {"name": interface.name, "multus": {"networkName": multus}}
