"""What KubeVirt's objects say, as far as Kigi needs it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kigi.planning.view import KubeVirtState

GATE_SIDECAR = "Sidecar"
GATE_PLUGINS = "Plugins"
_PLUGINS_SINCE = (1, 9)
_SIDECAR_SINCE = (1, 7)
_VERSION = re.compile(r"^v?(\d+)\.(\d+)")


def kubevirt_state(objects: Iterable[Mapping[str, Any]]) -> KubeVirtState:
    """How disks can be hooked by the KubeVirt of these ``KubeVirt`` objects (there is at most one).

    KubeVirt 1.9 and later: the Plugin if the gate Plugins is on; else, and for 1.7 and 1.8, the sidecar if the gate
    Sidecar is on; else no hook, and ``why_not`` names the gate.
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
    gate = GATE_PLUGINS if number >= _PLUGINS_SINCE else GATE_SIDECAR
    return KubeVirtState(
        version,
        None,
        f"{name} ({version}): add feature gate {gate} to "
        "spec.configuration.developerConfiguration.featureGates; no VM is started on a layered disk without it",
    )


def root_claim(volumes: Iterable[Mapping[str, Any]] | None, disk: str) -> str | None:
    """Claim of the volume ``disk`` in the ``volumes`` of a VM's template or of an instance."""
    for volume in volumes or ():
        if volume.get("name") == disk:
            return (volume.get("persistentVolumeClaim") or {}).get("claimName")
    return None


def condition(body: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type in a status; empty if there is none."""
    for item in (body.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return item  # type: ignore[no-any-return]
    return {}


def unscheduled(vmi: Mapping[str, Any]) -> str:
    """The scheduler's explanation of why a VM's pod has no node; empty if it has one."""
    found = condition(vmi, "PodScheduled")
    return str(found.get("message") or "") if found.get("status") == "False" else ""


def trouble(vm: Mapping[str, Any]) -> str:
    """KubeVirt's explanation of why a VM does not run; empty if it gives none."""
    for kind in ("Failure", "Ready"):
        found = condition(vm, kind)
        bad = found.get("status") == ("True" if kind == "Failure" else "False")
        # "VMI does not exist" and the like are stages of a start, not trouble.
        if bad and found.get("message") and (kind == "Failure" or found.get("reason") not in _STAGES):
            return str(found["message"])
    return ""


_STAGES = frozenset(
    {"VMINotExists", "GuestNotRunning", "PodNotExists", "PodTerminating", "PodConditionMissing", "ContainersNotReady"}
)
