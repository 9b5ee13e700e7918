"""Conversion of both trees: VMImageNodes and SystemNodes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kigi.api.base import MACHINE_NAME
from kigi.migration.machines import convert_machine, networks_of
from kigi.migration.names import CAPTURED_FROM, EQUALS
from kigi.migration.problems import Body, without_none

_MAX_NETWORK_NAME = 20


def convert_image(old: Body, capture_of: Mapping[str, str]) -> Body:
    """A VMImageNode; ``capture_of``: name of a captured state -> name of its SystemCapture."""
    spec = old["spec"]
    layer = {key: value for key, value in spec["layer"].items() if key != "repository"}
    repository = spec["layer"].get("repository")
    new = without_none(
        parentRef=spec.get("parent"),
        repositoryRef={"name": repository} if repository else None,
        layer=layer,
        guest={"os": spec["os"]} if spec.get("os") else None,
        description=spec.get("description"),
        provenance=_provenance(old, capture_of),
    )
    return {**old, "spec": new, "metadata": _metadata(old)}


class NetworkNames:
    """Names for the networks of one namespace's states: v1alpha1 named NetworkAttachmentDefinitions at each machine.

    The name depends on the NetworkAttachmentDefinition only, so that a child state means its parent's network:
    that of ``spec.networks`` if every state has the same, else its own name, else a hash.
    """

    def __init__(self, systems: Iterable[Mapping[str, Any]]) -> None:
        self._multus: dict[str, set[str | None]] = {}
        for system in systems:
            for network in system["spec"].get("networks") or ():
                self._multus.setdefault(network["name"], set()).add(network.get("multus"))

    def __call__(self, multus: str) -> str:
        """Name of the network with this NetworkAttachmentDefinition."""
        declared = sorted(name for name, found in self._multus.items() if found == {multus} and name != "pod")
        if declared:
            return declared[0]
        fits = len(multus) <= _MAX_NETWORK_NAME and re.fullmatch(MACHINE_NAME, multus) and multus != "pod"
        if fits and multus not in self._multus:
            return multus
        return "net-" + hashlib.sha256(multus.encode()).hexdigest()[:12]


def convert_system(old: Body, network_of: NetworkNames, capture_of: Mapping[str, str]) -> Body:
    """A SystemNode."""
    spec = old["spec"]
    machines = [convert_machine(machine, network_of) for machine in spec.get("machines") or ()]
    new = without_none(
        parentRef=spec.get("parent"),
        description=spec.get("description"),
        networks=_networks(spec, network_of) or None,
        machines=[machine for machine in machines if machine is not None] or None,
        provenance=_provenance(old, capture_of),
    )
    return {**old, "spec": new, "metadata": _metadata(old)}


def _networks(spec: Mapping[str, Any], network_of: NetworkNames) -> list[Body]:
    """The documented networks, and one for each NetworkAttachmentDefinition that a machine of this state names."""
    networks = {
        network["name"]: without_none(
            name=network["name"],
            description=network.get("description"),
            multusRef={"name": network["multus"]} if network.get("multus") else None,
        )
        for network in spec.get("networks") or ()
        if network["name"] != "pod"
    }
    for machine in spec.get("machines") or ():
        for multus in networks_of(machine):
            name = network_of(multus)
            networks.setdefault(name, {"name": name, "multusRef": {"name": multus}})
    return list(networks.values())


def _provenance(old: Body, capture_of: Mapping[str, str]) -> Body | None:
    annotations = old["metadata"].get("annotations") or {}
    if equal := annotations.get(EQUALS):
        name, _, digest = equal.partition("@")
        return {"flattened": {"imageName": name, "digest": digest}}
    if source := annotations.get(CAPTURED_FROM):
        request = _capture(old["metadata"]["name"], capture_of)
        return {"captured": {"instanceName": source.replace("/", "-"), "requestName": request}}
    return None


def _capture(name: str, capture_of: Mapping[str, str]) -> str:
    """The capture of a state or image; a capture that is gone had the name of its state, unless it named another."""
    states: Sequence[str] = [state for state in capture_of if name == state or name.startswith(f"{state}-")]
    return capture_of[max(states, key=len)] if states else name


def _metadata(old: Body) -> Body:
    meta = dict(old["metadata"])
    kept = {
        key: value for key, value in (meta.pop("annotations", None) or {}).items() if key not in (EQUALS, CAPTURED_FROM)
    }
    return {**meta, **({"annotations": kept} if kept else {})}
