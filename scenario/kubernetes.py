"""Kubernetes objects of a build, for ``kubectl apply``: a SystemNode for each state, and a SystemDeployment.

VMImageNodes are not among them: they contain digests, which are known only when the layers are published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scenario.manifest import Manifest, System, Variant

API_VERSION = "kigi.dev/v1alpha2"

MEMORY: Mapping[Variant, Mapping[str, str]] = {
    # Under SeaBIOS, Debian's cloud kernel with an initramfs starts with 80 MiB but not with 64 MiB.
    "tiny": {"server": "96Mi", "desktop": "96Mi"},
    "real": {"server": "512Mi", "desktop": "1Gi"},
}


def system_nodes(manifest: Manifest, namespace: str | None = None) -> list[dict[str, Any]]:
    """A SystemNode for each state, parents first. Only the root has hardware; its children inherit it."""
    return [_system_node(manifest, system, namespace) for system in manifest.systems]


def system_deployment(
    name: str = "exercise", system: str = "infected", namespace: str | None = None, **spec: Any
) -> dict[str, Any]:
    """A SystemDeployment of this state; ``spec`` adds fields to its spec, such as ``replicas=2``."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SystemDeployment",
        "metadata": _metadata(name, namespace),
        "spec": {"systemRef": {"name": system}, **spec},
    }


def system_instance(
    name: str, deployment: str = "exercise", namespace: str | None = None, **spec: Any
) -> dict[str, Any]:
    """The SystemInstance ``name`` of a deployment; ``spec`` adds what differs, such as ``powerState="On"``."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SystemInstance",
        "metadata": _metadata(f"{deployment}-{name}", namespace),
        "spec": {"deploymentRef": {"name": deployment}, "name": name, **spec},
    }


def machines_on(machines: Iterable[str]) -> list[dict[str, Any]]:
    """Settings of a SystemInstance that start these machines of a deployment that is off."""
    return [{"name": machine, "powerState": "On"} for machine in machines]


def _system_node(manifest: Manifest, system: System, namespace: str | None) -> dict[str, Any]:
    machines: list[dict[str, Any]] = []
    for machine, image in system.machines.items():
        entry: dict[str, Any] = {"name": machine, "rootDisk": {"imageRef": {"name": image}}}
        if system.parent is None:
            size = "desktop" if manifest.roles[machine] == "desktop" else "server"
            # No interface is given: the default is one on the pod network, by masquerade.
            entry["hardware"] = {"cpu": {"cores": 1}, "memory": {"guest": MEMORY[manifest.variant][size]}}
        machines.append(entry)
    spec: dict[str, Any] = {"description": system.description, "machines": machines}
    if system.parent is not None:
        spec["parentRef"] = {"name": system.parent}
    return {
        "apiVersion": API_VERSION,
        "kind": "SystemNode",
        "metadata": _metadata(system.name, namespace),
        "spec": spec,
    }


def _metadata(name: str, namespace: str | None) -> dict[str, Any]:
    return {"name": name} if namespace is None else {"name": name, "namespace": namespace}
