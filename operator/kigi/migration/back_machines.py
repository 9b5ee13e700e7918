"""The way back for one machine of a SystemNode: hardware, patch and their siblings become its template again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.migration.problems import Body, without_none

_RUN_STRATEGY = {"Restart": "Always", "StayOff": "RerunOnFailure"}


def machine_back(new: Mapping[str, Any], multus: Mapping[str, str]) -> Body:
    """The machine in v1alpha1; ``multus``: network of the state -> NetworkAttachmentDefinition."""
    if new.get("removed"):
        return {"name": new["name"], "removed": True}
    root, hardware = new.get("rootDisk") or {}, new.get("hardware") or {}
    cloud_init, probe = hardware.get("cloudInit"), new.get("readinessProbe")
    interfaces = hardware.get("interfaces")
    template = without_none(
        cpu=(hardware.get("cpu") or {}).get("cores"),
        memory=(hardware.get("memory") or {}).get("guest"),
        instancetype=hardware.get("instancetypeRef"),
        preference=hardware.get("preferenceRef"),
        networks=None if interfaces is None else [_network(each, multus) for each in interfaces],
        cloudInit=_cloud_init(cloud_init) if cloud_init else None,
        diskBus=root.get("bus"),
        bootOrder=root.get("bootOrder"),
        patch=_patch(new["patch"]) if new.get("patch") else None,
        after=new.get("startAfter"),
        readiness=_readiness(probe) if probe else None,
        runStrategy=_RUN_STRATEGY.get(new.get("guestPowerOffPolicy", "")),
    )
    disks = [_disk(disk) for disk in new.get("disks") or ()]
    return without_none(name=new["name"], image=root.get("imageRef"), disks=disks or None, template=template or None)


def _disk(new: Mapping[str, Any]) -> Body:
    if new.get("removed"):
        return {"name": new["name"], "removed": True}
    return without_none(name=new["name"], image=new.get("imageRef"), bus=new.get("bus"))


def _network(new: Mapping[str, Any], multus: Mapping[str, str]) -> Body:
    binding = new.get("binding")
    return without_none(
        name=new["name"],
        multus=multus.get(new["networkName"]),
        binding=binding.lower() if binding else None,
        mac=new.get("macAddress"),
        model=new.get("model"),
    )


def _cloud_init(new: Mapping[str, Any]) -> Body:
    secret = (new.get("secretRef") or {}).get("name")
    return without_none(userData=new.get("userData"), networkData=new.get("networkData"), secretName=secret)


def _patch(new: Mapping[str, Any]) -> Body:
    """One JSON merge patch, in which null stands for a removed path."""
    patch = _copy(new.get("merge") or {})
    for path in new.get("remove") or ():
        at = patch
        *parents, last = path.split(".")
        for key in parents:
            at = at.setdefault(key, {})
        at[last] = None
    return patch


def _copy(value: Mapping[str, Any]) -> Body:
    return {key: _copy(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _readiness(new: Mapping[str, Any]) -> Body:
    times = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
    return without_none(
        guestAgent=True if "guestAgentPing" in new else None,
        tcpPort=(new.get("tcpSocket") or {}).get("port"),
        http=new.get("httpGet"),
        exec=(new.get("exec") or {}).get("command"),
        **{key: new.get(key) for key in times},
    )
