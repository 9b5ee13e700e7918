"""Reads KubeVirt's objects: hooks, conditions, claims and failures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kigi.domain.kubevirt import KubeVirtState

GATE_SIDECAR = "Sidecar"
GATE_PLUGINS = "Plugins"
_PLUGINS_SINCE = (1, 9)
_SIDECAR_SINCE = (1, 7)
_VERSION = re.compile(r"^v?(\d+)\.(\d+)")


def kubevirt_state(objects: Iterable[Mapping[str, Any]]) -> KubeVirtState:
    """The hook for layered disks that the cluster's KubeVirt offers. There is at most one ``KubeVirt`` object.

    KubeVirt 1.9 and later: the Plugin if the gate Plugins is on. Otherwise, and for 1.7 and 1.8: the sidecar if the
    gate Sidecar is on. Without either there is no hook, and ``why_not`` names the gate to turn on.
    """
    found = next(iter(objects), None)
    if found is None:
        return KubeVirtState(why_not="KubeVirt is not installed: there is no KubeVirt object in the cluster")
    version = str((found.get("status") or {}).get("observedKubeVirtVersion") or "")
    match = _VERSION.match(version)
    name = f"KubeVirt {found['metadata'].get('namespace')}/{found['metadata'].get('name')}"
    if match is None:
        return KubeVirtState(version, None, f"{name} has not been deployed yet: it reports version {version!r}")
    number = (int(match[1]), int(match[2]))
    gate = GATE_PLUGINS if number >= _PLUGINS_SINCE else GATE_SIDECAR
    spec = found.get("spec") or {}
    developer = (spec.get("configuration") or {}).get("developerConfiguration") or {}
    gates = set(developer.get("featureGates") or ())
    gates -= set(developer.get("disabledFeatureGates") or ())
    if number < _SIDECAR_SINCE:
        return KubeVirtState(version, None, f"{name} is {version}; Kigi needs 1.7 or later")
    if number >= _PLUGINS_SINCE and GATE_PLUGINS in gates:
        return KubeVirtState(version, "Plugin")
    if GATE_SIDECAR in gates:
        return KubeVirtState(version, "Sidecar")
    return KubeVirtState(
        version,
        None,
        f"{name} ({version}): add feature gate {gate} to spec.configuration.developerConfiguration.featureGates (kigi "
        "enable-hook); no VM starts on a layered disk without it",
        gate=gate,
    )


def root_claim(volumes: Iterable[Mapping[str, Any]] | None, disk: str) -> str | None:
    """Name of the claim of the volume ``disk``; None if there is none. ``volumes``: of a VM's template or of a VMI."""
    for volume in volumes or ():
        if volume.get("name") == disk:
            return (volume.get("persistentVolumeClaim") or {}).get("claimName")
    return None


def condition(body: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type in the object's status; empty if there is none."""
    for item in (body.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return item  # type: ignore[no-any-return]
    return {}


def is_true(body: Mapping[str, Any], kind: str) -> bool:
    """Whether the condition of that type is True."""
    return condition(body, kind).get("status") == "True"


def persistent_state(vmi: Mapping[str, Any]) -> str:
    """Path of the domain field with state outside of the disks: ``devices.tpm`` or ``firmware.bootloader.efi``.

    Empty if there is none. The spec of a VMI includes the fields of its preference. Source: KubeVirt pkg/tpm/tpm.go,
    pkg/instancetype/preference.
    """
    domain = (vmi.get("spec") or {}).get("domain") or {}
    tpm = (domain.get("devices") or {}).get("tpm") or {}
    if tpm.get("persistent") and tpm.get("enabled", True):
        return "devices.tpm"
    efi = ((domain.get("firmware") or {}).get("bootloader") or {}).get("efi") or {}
    return "firmware.bootloader.efi" if efi.get("persistent") else ""


def is_blocked_by_ghost_record(vmi: Mapping[str, Any]) -> bool:
    """Whether virt-handler refuses the VMI because of its ghost record of the last VMI of that name.

    virt-handler removes the record only while no VMI of the name exists. If each VMI is followed by the next, none
    starts. Source: kubevirt/kubevirt issue 7032, pkg/virt-handler/cache (GhostRecordStore.Add).
    """
    sync = condition(vmi, "Synchronized")
    return sync.get("status") == "False" and _GHOST in str(sync.get("message") or "")


def unscheduled(vmi: Mapping[str, Any]) -> str:
    """The scheduler's reason why the VMI's pod has no node; empty if it has one."""
    found = condition(vmi, "PodScheduled")
    return str(found.get("message") or "") if found.get("status") == "False" else ""


def disk_error(vmi: Mapping[str, Any]) -> str:
    """What to do about a VMI that QEMU has stopped at a failed write; empty if it has not.

    Source: KubeVirt pkg/virt-handler/vm.go, reason PausedIOError. The error policy of its disks is ``stop`` unless set.
    """
    found = condition(vmi, "Paused")
    if found.get("status") != "True" or found.get("reason") != "PausedIOError":
        return ""
    name = (vmi.get("metadata") or {}).get("name")
    return (
        "the VM is paused at a write that failed: the disk of its node is full or broken; reset the machine, or free "
        f"space on the node and run: virtctl unpause vmi {name}"
    )


def trouble(vm: Mapping[str, Any]) -> str:
    """KubeVirt's reason why a VM does not run or is not ready; empty if it gives none.

    Source: KubeVirt pkg/virt-controller/watch/vm/vm.go. syncConditions copies the VMI's conditions. Among them,
    Synchronized is False if the pod cannot be created, or if libvirt or the disk hook refuses the domain.
    """
    failure, sync = condition(vm, "Failure"), condition(vm, "Synchronized")
    if failure.get("status") == "True" and failure.get("message"):
        return str(failure["message"])
    if sync.get("status") == "False":
        message = str(sync.get("message") or "")
        return _unpulled(message) if sync.get("reason") in _PULLS else message or str(sync.get("reason") or "")
    return _not_ready(vm)


def _not_ready(vm: Mapping[str, Any]) -> str:
    """Why the condition Ready is False; empty during the stages of a start."""
    ready = condition(vm, "Ready")
    reason, message = ready.get("reason"), str(ready.get("message") or "")
    if ready.get("status") != "False":
        return ""
    if reason in _NOT_ANSWERING and _is_probed(vm):
        return "it runs, and its readiness probe does not answer"
    if reason == "ContainersNotReady" and _is_running(vm):
        # A container beside the guest has ended, such as the hook. The guest still runs; a restart creates a new pod.
        return f"it runs, in a pod that has lost a part: {message or 'a container is not ready'}; restart it"
    # Reasons such as "VMI does not exist" are stages of a start, not failures.
    return message if reason not in _STAGES else ""


def _is_probed(vm: Mapping[str, Any]) -> bool:
    template = ((vm.get("spec") or {}).get("template") or {}).get("spec") or {}
    return bool(template.get("readinessProbe")) and _is_running(vm)


def _is_running(vm: Mapping[str, Any]) -> bool:
    return (vm.get("status") or {}).get("printableStatus") == "Running"


def _unpulled(message: str) -> str:
    """One text for a failing pull: the kubelet alternates between two messages."""
    image = _IMAGE.search(message)
    return f"image {image[1]} of its pod cannot be pulled" if image else "an image of its pod cannot be pulled"


_GHOST = "can not add ghost record when entry already exists with differing UID"
_IMAGE = re.compile(r'image "([^"]+)"')
_PULLS = frozenset({"ErrImagePull", "ImagePullBackOff"})
_NOT_ANSWERING = frozenset({"ContainersNotReady", "GuestNotRunning"})
_STAGES = frozenset(
    {"VMINotExists", "GuestNotRunning", "PodNotExists", "PodTerminating", "PodConditionMissing", "ContainersNotReady"}
)
