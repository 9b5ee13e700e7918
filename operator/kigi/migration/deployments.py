"""Conversion of a SystemDeployment: overrides become SystemInstances, which keep index and name of each volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.domain import kinds, names
from kigi.migration.names import OLD_FINALIZER
from kigi.migration.problems import Body, Findings, without_none

_ON_SWITCH = {"KeepUnchanged": "ReplaceChanged"}


def convert_deployment(old: Body) -> Body:
    """A SystemDeployment with instances "0", "1" and so on, as its volumes and VMs are named."""
    spec = old["spec"]
    on_switch = _ON_SWITCH.get(spec.get("switchPolicy", ""))
    new = without_none(
        systemRef=spec["system"],
        replicas=spec.get("replicas", 1),
        ordinals={"start": 0},
        powerState=_power(spec.get("running", True)),
        resetToken=spec.get("reset"),
        updateStrategy={"onSwitch": on_switch} if on_switch else None,
        placement=spec.get("placement") or None,
        isolation={"mode": "Instance"} if spec.get("isolation") == "Instances" else None,
        prefetchRefs=spec.get("prefetch") or None,
    )
    meta = dict(old["metadata"])
    if "deletionTimestamp" not in meta:  # the API server refuses new finalizers on an object that is being deleted
        meta["finalizers"] = [
            names.DEPLOYMENT_FINALIZER if name == OLD_FINALIZER else name for name in meta.get("finalizers") or ()
        ]
    return {**old, "spec": new, "metadata": meta}


def convert_overrides(old: Body, findings: Findings) -> list[Body]:
    """One SystemInstance per override that has an effect; the operator creates those of the other instances."""
    instances: list[Body] = []
    for override in old["spec"].get("overrides") or ():
        index = override["instance"]
        if index >= old["spec"].get("replicas", 1):
            findings.note(old, f"spec.overrides[{index}]: instance {index} does not exist, so its settings are dropped")
            continue
        if _has_token(override):
            findings.note(
                old, f"spec.overrides[{index}]: reset tokens of instances are dropped; their disks remember them"
            )
        settings = _settings(override)
        machines = [{"name": machine["name"], **_settings(machine)} for machine in override.get("machines") or ()]
        machines = [machine for machine in machines if len(machine) > 1]
        if settings or machines:
            instances.append(_instance(old, str(index), settings | ({"machines": machines} if machines else {})))
    return instances


def _instance(old: Body, name: str, settings: Body) -> Body:
    meta = old["metadata"]
    owner = {"apiVersion": names.API_VERSION, "kind": kinds.DEPLOYMENT, "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.INSTANCE,
        "metadata": {
            "name": f"{meta['name']}-{name}",
            "namespace": meta["namespace"],
            "labels": {names.LABEL_DEPLOYMENT: meta["name"], names.LABEL_INSTANCE: name},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {"deploymentRef": {"name": meta["name"]}, "name": name, **settings},
    }


def _settings(level: Mapping[str, Any]) -> Body:
    running = level.get("running")
    return without_none(
        systemRef=level.get("system"),
        powerState=None if running is None else "On" if running else "Off",
    )


def _has_token(override: Mapping[str, Any]) -> bool:
    return any(level.get("reset") for level in (override, *(override.get("machines") or ())))


def _power(running: bool) -> str | None:
    return None if running else "Off"
