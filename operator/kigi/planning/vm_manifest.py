"""Manifest of one VirtualMachine: its template's fields as KubeVirt spells them, its disks, and its fixed identity."""

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
from kigi.api.machine_template import CloudInit, MachineNetwork, MachineTemplate, Readiness
from kigi.domain import kinds, names
from kigi.domain.kubevirt import DEFAULT_INSTANCETYPE, DEFAULT_MEMORY, LAUNCHER_OVERHEAD_BYTES, RUN_STRATEGIES, HookKind
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, ANNOTATION_TEMPLATE_HASH, HOOK_SIDECARS
from kigi.domain.quantities import parse_quantity
from kigi.errors import SpecInvalid
from kigi.planning.manifests import instance_labels, owner_reference
from kigi.planning.placed import Owner, PlacedTarget
from kigi.planning.targets import MachineTarget

CLOUD_INIT = "cloud-init"
"""Name of the volume and disk of a template's ``cloudInit``."""
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
    Raises SpecInvalid if the template does not validate.
    """
    target = placed.target
    labels = {**instance_labels(owner, target.instance), names.LABEL_MACHINE: target.machine}
    fields = _fields(target)
    template = _instance_template(owner, placed, fields, settings.placement)
    template["metadata"] = merge_patch({"labels": labels}, template.get("metadata", {}))
    template["metadata"]["labels"].update(labels)
    annotations = template["metadata"].setdefault("annotations", {})
    annotations[ANNOTATION_HARDWARE_HASH] = target.blueprint.hardware_hash
    if settings.hook == "Sidecar":
        annotations[HOOK_SIDECARS] = hook_annotation(settings.hook_image)
    strategy = fields.run_strategy or RUN_STRATEGIES[0]
    spec: dict[str, Any] = {"runStrategy": strategy if settings.running else "Halted", "template": template}
    for key, reference in (("instancetype", fields.instancetype), ("preference", fields.preference)):
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


def machine_memory_bytes(template: Mapping[str, Any], instancetypes: Mapping[tuple[str, str], int] = _NO_TYPES) -> int:
    """Memory that one VM takes on its node, guest and launcher, in bytes.

    ``instancetypes``: guest memory in bytes by (kind, name). A missing instancetype counts as the default memory;
    KubeVirt then refuses the VM.
    """
    guest: int | None = None
    if reference := template.get("instancetype"):
        guest = instancetypes.get((reference.get("kind") or DEFAULT_INSTANCETYPE, reference.get("name", "")))
    if guest is None:
        guest = _bytes_of(str(template.get("memory") or DEFAULT_MEMORY))
    return guest + LAUNCHER_OVERHEAD_BYTES


_bytes_of = functools.lru_cache(maxsize=256)(parse_quantity)


def firmware_uuid(owner: Owner, target: MachineTarget) -> str:
    """Firmware UUID of the VM: the same for the same slot after resets, switches and re-creation."""
    return str(uuid.uuid5(_IDENTITY, _identity(owner, target)))


def mac_address(owner: Owner, target: MachineTarget, network: str) -> str:
    """Locally administered unicast MAC address of an interface, derived from the slot only."""
    digest = hashlib.sha256(f"{_identity(owner, target)}/{network}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _identity(owner: Owner, target: MachineTarget) -> str:
    return f"{owner.namespace}/{owner.name}/{target.instance}/{target.machine}"


def _vm_annotations(owner: Owner, target: MachineTarget, halted_until: datetime | None) -> dict[str, str]:
    annotations = {ANNOTATION_TEMPLATE_HASH: target.blueprint.template_hash, names.ANNOTATION_OWNER: owner.uid}
    if halted_until is not None:
        annotations[names.ANNOTATION_HALTED_UNTIL] = halted_until.isoformat()
    return annotations


def _fields(target: MachineTarget) -> MachineTemplate:
    try:
        return MachineTemplate.model_validate(dict(target.blueprint.machine.template))
    except ValueError as exc:
        raise SpecInvalid(f"SystemNode {target.system}: spec.machines[{target.machine}].template: {exc}") from exc


def _instance_template(
    owner: Owner, placed: PlacedTarget, fields: MachineTemplate, placement: Placement
) -> dict[str, Any]:
    """The VMI template: Kigi's fields, the patch over them, and Kigi's disks again, as a patch replaces lists."""
    disks, volumes = _disks(placed, fields)
    if fields.cloud_init is not None:
        disks.append({"name": CLOUD_INIT, "disk": {"bus": "virtio"}})
        volumes.append({"name": CLOUD_INIT, "cloudInitNoCloud": _cloud_init(fields.cloud_init)})
    networks = fields.networks if fields.networks is not None else [MachineNetwork(name="pod")]
    spec: dict[str, Any] = {
        "domain": _domain(owner, placed.target, fields, networks, disks),
        "hostname": placed.target.machine,
        "networks": [_network(network) for network in networks],
        "volumes": [*volumes],
        "evictionStrategy": "None",
        "terminationGracePeriodSeconds": 30,
    }
    if fields.readiness is not None:
        spec["readinessProbe"] = _probe(fields.readiness)
    if placement.tolerations:
        spec["tolerations"] = [toleration.to_api() for toleration in placement.tolerations]
    template = merge_patch({"spec": spec}, fields.patch or {})
    _keep_first(template["spec"].setdefault("volumes", []), volumes)
    devices = template["spec"]["domain"]["devices"]
    _keep_first(devices.setdefault("disks", []), disks)
    if fields.preference is not None:
        # A preference's TPM may keep its state where no reset reaches it; KubeVirt adds it only where there is none.
        devices.setdefault("tpm", {"enabled": False})
    return template


def _domain(
    owner: Owner,
    target: MachineTarget,
    fields: MachineTemplate,
    networks: list[MachineNetwork],
    disks: list[dict[str, Any]],
) -> dict[str, Any]:
    identity = firmware_uuid(owner, target)
    domain: dict[str, Any] = {
        "firmware": {"uuid": identity, "serial": identity},
        "devices": {"disks": [*disks], "interfaces": [_interface(owner, target, network) for network in networks]},
    }
    if not networks:
        domain["devices"]["autoattachPodInterface"] = False
    if fields.instancetype is None:
        domain["cpu"] = {"cores": fields.cpu or 1}
        domain["memory"] = {"guest": fields.memory or DEFAULT_MEMORY}
    return domain


def _disks(placed: PlacedTarget, fields: MachineTemplate) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """KubeVirt's disks and volumes for the disks of ``placed``, the boot disk first."""
    disks: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    for disk in placed.disks:
        name = names.DISK_PREFIX + disk.name if disk.name else names.DISK_VOLUME
        if disk.name:
            disks.append({"name": name, "disk": {"bus": disk.bus}})
        else:
            bus = {"bus": fields.disk_bus or "virtio"}
            disks.append({"name": name, "bootOrder": fields.boot_order or 1, "disk": bus})
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": disk.claim}})
    return disks, volumes


def _probe(readiness: Readiness) -> dict[str, Any]:
    """KubeVirt's readiness probe."""
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
    """Puts ``ours`` in front of ``items`` and drops items of the same names: a patch may only add entries."""
    known = {item["name"] for item in ours}
    items[:] = [*ours, *(item for item in items if item.get("name") not in known)]


def _cloud_init(settings: CloudInit) -> dict[str, Any]:
    """KubeVirt's cloud-init volume source."""
    source: dict[str, Any] = {}
    if settings.secret_name is not None:
        source = {"secretRef": {"name": settings.secret_name}}
    if settings.user_data is not None:
        source["userData"] = settings.user_data
    if settings.network_data is not None:
        source["networkData"] = settings.network_data
    return source


def _interface(owner: Owner, target: MachineTarget, network: MachineNetwork) -> dict[str, Any]:
    mac = network.mac or mac_address(owner, target, network.name)
    # KubeVirt accepts masquerade on the pod network only.
    binding = network.binding or ("masquerade" if network.multus is None else "bridge")
    interface: dict[str, Any] = {"name": network.name, binding: {}, "macAddress": mac}
    if network.model is not None:
        interface["model"] = network.model
    return interface


def _network(network: MachineNetwork) -> dict[str, Any]:
    if network.multus is None:
        return {"name": network.name, "pod": {}}
    return {"name": network.name, "multus": {"networkName": network.multus}}
