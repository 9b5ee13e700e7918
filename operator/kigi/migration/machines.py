"""Conversion of one machine of a SystemNode: its template becomes hardware, patch and their siblings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kigi.migration.problems import Body, without_none

NetworkOf = Callable[[str], str]
"""NetworkAttachmentDefinition -> name of the network in the state."""
_BINDINGS = {"masquerade": "Masquerade", "bridge": "Bridge", "sriov": "SRIOV"}
_POWER_OFF = {"Always": "Restart", "RerunOnFailure": "StayOff"}


def convert_machine(old: Mapping[str, Any], network_of: NetworkOf) -> Body | None:
    """The machine in v1alpha2; None for an entry without any setting, which v1alpha2 refuses."""
    if old.get("removed"):
        return {"name": old["name"], "removed": True}
    template = old.get("template") or {}
    new = without_none(
        rootDisk=_root_disk(old, template) or None,
        disks=[_disk(disk) for disk in old["disks"]] if old.get("disks") else None,
        hardware=_hardware(template, network_of) or None,
        patch=convert_patch(template["patch"]) or None if template.get("patch") else None,
        startAfter=template.get("after"),
        readinessProbe=_probe(template["readiness"]) if template.get("readiness") else None,
        guestPowerOffPolicy=_POWER_OFF.get(template.get("runStrategy", "")),
    )
    return {"name": old["name"], **new} if new else None


def networks_of(old: Mapping[str, Any]) -> Iterator[str]:
    """NetworkAttachmentDefinitions that a machine's interfaces name."""
    for network in (old.get("template") or {}).get("networks") or ():
        if network.get("multus"):
            yield network["multus"]


def convert_patch(old: Mapping[str, Any]) -> Body:
    """A JSON merge patch as ``merge`` without null, and ``remove`` with the paths of its nulls."""
    removed: list[str] = []
    merge = _without_null(old, (), removed)
    return without_none(merge=merge or None, remove=removed or None)


def _without_null(value: Mapping[str, Any], path: tuple[str, ...], removed: list[str]) -> Body:
    result: Body = {}
    for key, item in value.items():
        if item is None:
            removed.append(".".join((*path, key)))
        elif isinstance(item, Mapping):
            below = _without_null(item, (*path, key), removed)
            # An empty map is a value of its own, such as "rng: {}"; a map of nulls only removes.
            if below or not item:
                result[key] = below
        else:
            result[key] = item
    return result


def _root_disk(old: Mapping[str, Any], template: Mapping[str, Any]) -> Body:
    return without_none(imageRef=old.get("image"), bus=template.get("diskBus"), bootOrder=template.get("bootOrder"))


def _disk(old: Mapping[str, Any]) -> Body:
    if old.get("removed"):
        return {"name": old["name"], "removed": True}
    return {"name": old["name"], **without_none(imageRef=old.get("image"), bus=old.get("bus"))}


def _hardware(template: Mapping[str, Any], network_of: NetworkOf) -> Body:
    cloud_init = template.get("cloudInit")
    networks = template.get("networks")
    return without_none(
        cpu={"cores": template["cpu"]} if "cpu" in template else None,
        memory={"guest": template["memory"]} if "memory" in template else None,
        instancetypeRef=template.get("instancetype"),
        preferenceRef=template.get("preference"),
        interfaces=[_interface(network, network_of) for network in networks] if networks is not None else None,
        cloudInit=_cloud_init(cloud_init) if cloud_init else None,
    )


def _interface(old: Mapping[str, Any], network_of: NetworkOf) -> Body:
    return without_none(
        name=old["name"],
        networkName=network_of(old["multus"]) if old.get("multus") else "pod",
        binding=_BINDINGS.get(old.get("binding", "")),
        macAddress=old.get("mac"),
        model=old.get("model"),
    )


def _cloud_init(old: Mapping[str, Any]) -> Body:
    secret = old.get("secretName")
    return without_none(
        userData=old.get("userData"),
        networkData=old.get("networkData"),
        secretRef={"name": secret} if secret else None,
    )


def _probe(old: Mapping[str, Any]) -> Body:
    times = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
    http = old.get("http")
    return without_none(
        guestAgentPing={} if old.get("guestAgent") else None,
        tcpSocket={"port": old["tcpPort"]} if "tcpPort" in old else None,
        httpGet=without_none(port=http["port"], path=http.get("path"), scheme=http.get("scheme")) if http else None,
        exec={"command": old["exec"]} if old.get("exec") else None,
        **{key: old.get(key) for key in times},
    )
