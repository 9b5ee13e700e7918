"""Hashes of a machine's settings: the operator compares them, so that it applies and restarts a VM only on a change.

The hashes are in annotations of running VMs. Their input therefore keeps its own field names for ever, independent of
the API's names: equal meaning gives equal hashes in every version of Kigi.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kigi.api.placement import Placement
from kigi.domain.kubevirt import HookKind, run_strategy_of
from kigi.domain.machine_patch import path_of
from kigi.domain.systems import ResolvedDisk, ResolvedMachine, ResolvedSystem

_NOT_HARDWARE = frozenset({"after", "runStrategy", "architecture"})
"""Fields that define when and where a VM starts, not what it is."""


def template_hash(machine: ResolvedMachine, placement: Placement, hook: HookKind | None, hook_image: str) -> str:
    """16 hex digits of everything in a VM except its claims, its name and whether it runs."""
    tolerations = [toleration.to_api() for toleration in placement.tolerations]
    return _digest([_hashed(machine), tolerations, hook, hook_image, *map(_disk, machine.disks)])


def hardware_hash(machine: ResolvedMachine) -> str:
    """16 hex digits of the settings that take effect only when the VM restarts.

    The hash leaves out everything that Kigi adds (hook, claims, labels, defaults), so that no upgrade restarts a VM.
    It also leaves out tolerations, which matter only until the pod has a node, and the fields of ``_NOT_HARDWARE``.
    """
    fields = {key: value for key, value in _hashed(machine).items() if key not in _NOT_HARDWARE}
    return _digest([fields, *map(_disk, machine.disks)])


def _hashed(machine: ResolvedMachine) -> dict[str, Any]:
    """The settings under the hash's own names; only fields that are set."""
    settings, hardware = machine.settings, machine.hardware
    cpu = dict(hardware.get("cpu") or {})
    policy = settings.get("guestPowerOffPolicy")
    interfaces = hardware.get("interfaces")
    root = settings.get("rootDisk") or {}
    fields: dict[str, Any] = {
        "cpu": cpu.pop("cores", None),
        "topology": cpu or None,
        "memory": (hardware.get("memory") or {}).get("guest"),
        "instancetype": hardware.get("instancetypeRef"),
        "preference": hardware.get("preferenceRef"),
        "networks": None if interfaces is None else [_interface(machine, each) for each in interfaces],
        "cloudInit": _cloud_init(hardware["cloudInit"]) if "cloudInit" in hardware else None,
        "diskBus": root.get("bus"),
        "bootOrder": root.get("bootOrder"),
        "readiness": _probe(settings["readinessProbe"]) if "readinessProbe" in settings else None,
        "patch": _patch(settings["patch"]) if "patch" in settings else None,
        "after": settings.get("startAfter"),
        "runStrategy": run_strategy_of(policy) if policy is not None else None,
        "architecture": machine.guest.architecture,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _interface(machine: ResolvedMachine, interface: Mapping[str, Any]) -> dict[str, Any]:
    binding = interface.get("binding")
    fields = {
        "name": interface["name"],
        "multus": machine.networks.get(interface["networkName"]),
        "binding": binding.lower() if binding else None,
        "mac": interface.get("macAddress"),
        "model": interface.get("model"),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _cloud_init(settings: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: value for key, value in settings.items() if key != "secretRef"}
    return {**texts, "secretName": settings["secretRef"]["name"]} if "secretRef" in settings else texts


def _probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {key: value for key, value in probe.items() if key.endswith(("Seconds", "Threshold"))}
    if "guestAgentPing" in probe:
        fields["guestAgent"] = True
    if "tcpSocket" in probe:
        fields["tcpPort"] = probe["tcpSocket"]["port"]
    if "httpGet" in probe:
        fields["http"] = {"path": "/", "scheme": "HTTP", **probe["httpGet"]}
    if "exec" in probe:
        fields["exec"] = probe["exec"]["command"]
    return fields


def _patch(patch: Mapping[str, Any]) -> dict[str, Any]:
    """One merge patch, in which null stands for a removed path; a path that is merged again is listed apart."""
    merged = dict(patch.get("merge") or {})
    again = [path for path in patch.get("remove") or () if not _set_null(merged, path_of(path))]
    return {**merged, "removed": sorted(again)} if again else merged


def _set_null(merged: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Puts null at the path, unless ``merged`` replaces what it had; False if it merges a map there."""
    at = merged
    for key in path[:-1]:
        below = at.get(key, {})
        if not isinstance(below, Mapping):
            return True  # a text or list replaces the map that had the path
        at[key] = at = dict(below)
    return not isinstance(at.setdefault(path[-1], None), Mapping)


def _disk(disk: ResolvedDisk) -> list[object]:
    return [disk.name, disk.bus] if disk.boot_order is None else [disk.name, disk.bus, disk.boot_order]


def content_hash(machine: ResolvedMachine) -> str:
    """16 hex digits of what an edit of a state changes in a machine: its hardware and the layers of its disks."""
    return _digest([hardware_hash(machine), *(str(chain[-1].digest) for chain in machine.chains)])


def state_content_hash(system: ResolvedSystem) -> str:
    """16 hex digits of the content of all machines of a state."""
    return _digest([[machine.name, content_hash(machine)] for machine in system.machines])


def older_template_hash(
    hardware: str, strategy: str, placement: Placement, hook: HookKind | None, hook_image: str
) -> str:
    """16 hex digits of what Kigi itself has in the VM of a machine that keeps the hardware of an earlier edit."""
    tolerations = [toleration.to_api() for toleration in placement.tolerations]
    return _digest([hardware, strategy, tolerations, hook, hook_image])


def _digest(values: list[object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
