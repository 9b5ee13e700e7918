"""The feature gate that KubeVirt needs for Kigi's disk hook, added to those that the KubeVirt object has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.errors import SpecInvalid

_PATH = ("spec", "configuration", "developerConfiguration")
_GATES, _DISABLED = "featureGates", "disabledFeatureGates"
_MANAGED_BY = "app.kubernetes.io/managed-by"


def gate_operations(kubevirt: Mapping[str, Any], gate: str) -> list[dict[str, Any]]:
    """JSON patch that appends the gate to those that are set; empty if it is set.

    It fails as a whole if the object has changed since it was read. Raises SpecInvalid if the gate is switched off
    explicitly, which an administrator decided.
    """
    developer = _at(kubevirt, _PATH)
    if gate in (developer.get(_DISABLED) or ()):
        raise SpecInvalid(f"{_name(kubevirt)}: {'.'.join(_PATH)}.{_DISABLED} has {gate}; remove it there first")
    if gate in (developer.get(_GATES) or ()):
        return []
    version = kubevirt["metadata"]["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, _addition(kubevirt, gate)]


def _addition(kubevirt: Mapping[str, Any], gate: str) -> dict[str, Any]:
    """One operation: append to the list, or add the list with those of its parents that are missing."""
    present: Mapping[str, Any] = kubevirt
    names = (*_PATH, _GATES)
    for depth, name in enumerate(names):
        below = present.get(name)
        if not below:  # null and an empty object or list are replaced
            value: Any = [gate]
            for missing in reversed(names[depth + 1 :]):
                value = {missing: value}
            return {"op": "add", "path": "/" + "/".join(names[: depth + 1]), "value": value}
        present = below
    return {"op": "add", "path": "/" + "/".join(names) + "/-", "value": gate}


def gate_owner(kubevirt: Mapping[str, Any]) -> str:
    """The operator that keeps the KubeVirt object and would set the gates back, as ``Kind name``; empty: none does."""
    meta = kubevirt["metadata"]
    owners = [
        f"{owner['kind']} {owner['name']}" for owner in meta.get("ownerReferences") or () if owner.get("controller")
    ]
    by = (meta.get("labels") or {}).get(_MANAGED_BY, "")
    return next(iter(owners), "HyperConverged kubevirt-hyperconverged" if by.startswith("hco-") else "")


def owner_command(namespace: str, gate: str) -> str:
    """The command that sets the gate through OpenShift Virtualization and other HyperConverged installations."""
    patch = f'[{{"op": "add", "path": "/{"/".join((*_PATH, _GATES))}/-", "value": "{gate}"}}]'
    return (
        f"kubectl annotate --overwrite -n {namespace} hyperconverged kubevirt-hyperconverged "
        f"kubevirt.kubevirt.io/jsonpatch='{patch}'"
    )


def _at(body: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        body = body.get(name) or {}
    return body


def _name(kubevirt: Mapping[str, Any]) -> str:
    meta = kubevirt["metadata"]
    return f"KubeVirt {meta.get('namespace')}/{meta.get('name')}"
