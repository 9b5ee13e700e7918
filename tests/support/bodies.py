"""Small API objects as the API server returns them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.api.deployment import Placement
from kigi.domain import names
from kigi.domain.images import Image
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.systems import ResolvedMachine
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner, PlacedTarget, disk_targets
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.vm_manifest import VmSettings, build_machine

GIB = 2**30
NS, NAME, UID = "ns", "dep", "0123456789"
OWNER = Owner(NS, NAME, UID)


def with_meta(body: dict[str, Any], version: int, uid: str | None = None, **meta: Any) -> dict[str, Any]:
    """The body with the fields that the API server adds."""
    name = body["metadata"]["name"]
    added = {"uid": uid or f"uid-{body['kind']}-{name}", "resourceVersion": str(version), "generation": 1}
    return {**body, "metadata": {**body["metadata"], **added, **meta}}


def image_body(image: Image, version: int = 1, namespace: str = NS) -> dict[str, Any]:
    layer = {
        "digest": image.digest,
        "sizeBytes": image.size_bytes,
        "virtualSizeBytes": image.virtual_size_bytes,
        "repository": image.repository,
    }
    spec = {"layer": layer, **({"parent": {"name": image.parent}} if image.parent else {})}
    return with_meta(
        {"kind": "VMImageNode", "metadata": {"name": image.name, "namespace": namespace}, "spec": spec}, version
    )


def system_body(
    name: str, machines: list[dict[str, Any]], parent: str | None = None, version: int = 1, namespace: str = NS
) -> dict[str, Any]:
    spec = {"machines": machines, **({"parent": {"name": parent}} if parent else {})}
    return with_meta({"kind": "SystemNode", "metadata": {"name": name, "namespace": namespace}, "spec": spec}, version)


def deployment_body(version: int = 1, **spec: Any) -> dict[str, Any]:
    body = {
        "kind": "SystemDeployment",
        "metadata": {"name": NAME, "namespace": NS},
        "spec": {"system": {"name": "a"}, **spec},
    }
    return with_meta(body, version, UID)


def node_body(name: str = "n1", version: int = 1, memory: str = "8Gi", **spec: Any) -> dict[str, Any]:
    status = {"allocatable": {"memory": memory}, "conditions": [{"type": "Ready", "status": "True"}]}
    return with_meta({"kind": "Node", "metadata": {"name": name}, "spec": spec, "status": status}, version)


def csi_node_body(name: str = "n1", version: int = 1, driver: str = names.CSI_DRIVER) -> dict[str, Any]:
    drivers = {"drivers": [{"name": driver}]}
    return with_meta({"kind": "CSINode", "metadata": {"name": name}, "spec": drivers}, version)


def cache_body(
    name: str = "n1",
    version: int = 1,
    held: tuple[Digest, ...] = (),
    heartbeat: str | None = "2026-01-01T00:00:00Z",
    discard: tuple[str, ...] = (),
    volumes: tuple[str, ...] = (),
    budget_bytes: int = GIB,
) -> dict[str, Any]:
    status = {
        "observedGeneration": 1,
        "layers": [{"digest": digest, "state": "Held", "sizeBytes": 10} for digest in held],
        "volumes": [{"name": volume} for volume in volumes],
        "budgetBytes": budget_bytes,
        "lastHeartbeatTime": heartbeat,
    }
    spec = {"layers": [], "discard": list(discard)}
    return with_meta({"kind": "NodeCache", "metadata": {"name": name}, "spec": spec, "status": status}, version)


def target(
    machine: str = "m",
    image: str = "top",
    instance: int = 0,
    memory: str = "1Gi",
    template: Mapping[str, Any] | None = None,
    running: bool = True,
) -> MachineTarget:
    """A machine of state a, which has one disk."""
    fields = {"memory": memory} if template is None else template
    resolved = ResolvedMachine(machine, image, chain_of(image), fields)
    name = names.machine_name(NAME, instance, machine)
    blueprint = Blueprint.of("a", resolved, Placement(), "Sidecar", "hook")
    return MachineTarget(instance, blueprint, name, running, resets=(None, None, None))


def placed(desired: MachineTarget, revision: int = 1, node: str = "n1", owner: Owner = OWNER) -> PlacedTarget:
    """The target on the disks of that revision."""
    disks = disk_targets(owner, desired, revision)
    return PlacedTarget(desired, revision, node, desired.fingerprint(), disks, is_cached=True)


def chain_of(name: str) -> Chain:
    return (Layer(Digest("sha256:" + name.encode().hex().ljust(64, "0")), 100, GIB),)


def volume_body(
    desired: MachineTarget, revision: int = 1, node: str = "n1", version: int = 1, owner: Owner = OWNER, **meta: Any
) -> dict[str, Any]:
    """Volume of the boot disk."""
    one = placed(desired, revision, node, owner)
    return with_meta(build_volume(owner, one, one.disks[0]), version, **meta)


def claim_body(desired: MachineTarget, revision: int = 1, version: int = 1, phase: str = "Bound") -> dict[str, Any]:
    """Claim of the boot disk."""
    one = placed(desired, revision)
    return {**with_meta(build_claim(OWNER, one, one.disks[0]), version), "status": {"phase": phase}}


def machine_body(desired: MachineTarget, revision: int = 1, version: int = 1, owner: Owner = OWNER) -> dict[str, Any]:
    settings = VmSettings(Placement(), "Sidecar", "hook", running=desired.running)
    body = build_machine(owner, placed(desired, revision, owner=owner), settings)
    return {**with_meta(body, version), "status": {"printableStatus": "Running"}}


def vmi_body(desired: MachineTarget, revision: int = 1, version: int = 1, uid: str = "vmi-1") -> dict[str, Any]:
    machine = machine_body(desired, revision)
    template = machine["spec"]["template"]
    body = {
        "kind": "VirtualMachineInstance",
        "metadata": {**template["metadata"], "name": machine["metadata"]["name"], "namespace": NS},
        "spec": template["spec"],
        "status": {"phase": "Running", "nodeName": "n1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return with_meta(body, version, uid)
