"""Small API objects as the API server returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kigi.api.placement import Placement
from kigi.domain import names
from kigi.domain.heartbeat import build_lease
from kigi.domain.images import Image
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.systems import ResolvedMachine
from kigi.domain.tree_names import ref_to
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner, PlacedTarget, disk_targets
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.vm_manifest import VmSettings, build_machine

GIB = 2**30
NS, NAME, UID = "ns", "dep", "0123456789"
INSTANCE_UID = "11223344-instance"
OWNER = Owner(NS, NAME, "0", INSTANCE_UID)


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
    }
    spec: dict[str, Any] = {"layer": layer}
    if image.repository:
        spec["repositoryRef"] = {"name": image.repository}
    if image.parent:
        spec["parentRef"] = ref_to(image.parent)
    return with_meta(
        {"kind": "VMImageNode", "metadata": {"name": image.name, "namespace": namespace}, "spec": spec}, version
    )


def system_body(
    name: str, machines: list[dict[str, Any]], parent: str | None = None, version: int = 1, namespace: str = NS
) -> dict[str, Any]:
    spec = {"machines": machines, **({"parentRef": ref_to(parent)} if parent else {})}
    return with_meta({"kind": "SystemNode", "metadata": {"name": name, "namespace": namespace}, "spec": spec}, version)


def machine_item(name: str, image: str | None = None, **fields: Any) -> dict[str, Any]:
    """An item of ``spec.machines`` of a SystemNode."""
    return {"name": name, **({"rootDisk": {"imageRef": {"name": image}}} if image else {}), **fields}


def deployment_body(version: int = 1, **spec: Any) -> dict[str, Any]:
    body = {
        "kind": "SystemDeployment",
        "metadata": {"name": NAME, "namespace": NS, "finalizers": [names.DEPLOYMENT_FINALIZER]},
        "spec": {"systemRef": {"name": "a"}, "ordinals": {"start": 0}, **spec},
    }
    return with_meta(body, version, UID)


def reset_body(
    name: str = "lunch", version: int = 1, created: str = "2027-03-01T12:00:00Z", **spec: Any
) -> dict[str, Any]:
    """A SystemReset of the deployment."""
    body = {
        "kind": "SystemReset",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"deploymentRef": {"name": NAME}, "requestedBy": "alice", **spec},
    }
    return with_meta(body, version, creationTimestamp=created)


def repository_body(name: str = "default", version: int = 1, **spec: Any) -> dict[str, Any]:
    """A LayerRepository; without ``spec``, the default of all namespaces."""
    default = {
        "s3": {"endpoint": "http://s3.example", "bucket": "kigi"},
        "credentials": {"readerSecretRef": {"name": "reader"}},
        "namespaceSelector": {},
        "defaultFor": "AllNamespaces",
    }
    return with_meta({"kind": "LayerRepository", "metadata": {"name": name}, "spec": default | spec}, version)


def instance_body(name: str = "0", version: int = 1, uid: str = INSTANCE_UID, **spec: Any) -> dict[str, Any]:
    """A SystemInstance of the deployment, with Kigi's finalizer."""
    owner = {"kind": "SystemDeployment", "name": NAME, "uid": UID, "controller": True}
    metadata = {
        "name": names.instance_object(NAME, name),
        "namespace": NS,
        "finalizers": [names.INSTANCE_FINALIZER],
        "ownerReferences": [owner],
    }
    body = {
        "kind": "SystemInstance",
        "metadata": metadata,
        "spec": {"deploymentRef": {"name": NAME}, "name": name, **spec},
    }
    return with_meta(body, version, uid)


def namespace_body(name: str = NS, version: int = 1, **labels: str) -> dict[str, Any]:
    return with_meta({"kind": "Namespace", "metadata": {"name": name, "labels": labels}}, version, labels=labels)


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
    discard: tuple[str, ...] = (),
    volumes: tuple[str, ...] = (),
    budget_bytes: int = GIB,
    filling: tuple[str, ...] = (),
) -> dict[str, Any]:
    """``volumes`` are not mounted, and those that are ``filling`` the disk are."""
    status = {
        "observedGeneration": 1,
        "layers": [{"digest": digest, "state": "Held"} for digest in held],
        "volumes": [*({"name": each} for each in volumes), *({"name": each, "mounted": True} for each in filling)],
        "fillingVolumes": list(filling),
        "budgetBytes": budget_bytes,
    }
    spec = {"nodeName": name, "operatorProtocol": 2, "protocol": 2, "layers": [], "discardVolumes": list(discard)}
    return with_meta({"kind": "NodeCache", "metadata": {"name": name}, "spec": spec, "status": status}, version)


def lease_body(node: str = "n1", version: int = 1, renewed: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """The heartbeat of a node."""
    body = build_lease(node, "kigi-system", cache=(node, f"uid-NodeCache-{node}"), time=renewed)
    return with_meta(body, version)


def target(
    machine: str = "m",
    image: str = "top",
    instance: str = "0",
    memory: str = "1Gi",
    settings: Mapping[str, Any] | None = None,
    running: bool = True,
) -> MachineTarget:
    """A machine of state a, which has one disk."""
    fields = {"hardware": {"memory": {"guest": memory}}} if settings is None else settings
    resolved = ResolvedMachine(machine, image, chain_of(image), fields)
    name = names.machine_name(NAME, instance, machine)
    blueprint = Blueprint.of("a", resolved, Placement(), "Sidecar", "hook")
    return MachineTarget(instance, blueprint, name, running)


def placed(desired: MachineTarget, revision: int = 1, node: str = "n1", owner: Owner = OWNER) -> PlacedTarget:
    """The target on the disks of that revision."""
    owner = replace(owner, instance=desired.instance)
    disks = disk_targets(owner, desired, revision)
    return PlacedTarget(desired, revision, node, desired.fingerprint(), disks, is_cached=True)


def chain_of(name: str) -> Chain:
    return (Layer(Digest("sha256:" + name.encode().hex().ljust(64, "0")), 100, GIB),)


def volume_body(
    desired: MachineTarget, revision: int = 1, node: str = "n1", version: int = 1, owner: Owner = OWNER, **meta: Any
) -> dict[str, Any]:
    """Volume of the boot disk."""
    one, owner = placed(desired, revision, node, owner), replace(owner, instance=desired.instance)
    return with_meta(build_volume(owner, one, one.disks[0]), version, **meta)


def claim_body(desired: MachineTarget, revision: int = 1, version: int = 1, phase: str = "Bound") -> dict[str, Any]:
    """Claim of the boot disk."""
    one, owner = placed(desired, revision), replace(OWNER, instance=desired.instance)
    return {**with_meta(build_claim(owner, one, one.disks[0]), version), "status": {"phase": phase}}


def machine_body(desired: MachineTarget, revision: int = 1, version: int = 1, owner: Owner = OWNER) -> dict[str, Any]:
    settings = VmSettings(Placement(), "Sidecar", "hook", running=desired.running)
    owner = replace(owner, instance=desired.instance)
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


def stored_capture(
    stage: str, version: int, *, namespace: str, node: str, machine: str, base: str, revision: int = 1
) -> dict[str, Any]:
    """A SystemCapture without its spec, of one disk, whose status has the facts from which the stage follows."""
    is_over = stage in ("Complete", "Failed")
    captured = stage in ("Storing", "Publishing", "Complete")
    facts = {"Captured": captured, "Complete": stage == "Complete", "Failed": stage == "Failed"}
    time = "2026-01-01T00:00:00Z"
    conditions = [
        {"type": kind, "status": str(value), "reason": "Test", "message": "", "lastTransitionTime": time}
        for kind, value in facts.items()
    ]
    state = {"Storing": "Storing", "Publishing": "Stored", "Complete": "Stored"}.get(stage, "Waiting")
    disk = {"machine": machine, "disk": "root", "nodeName": node, "revision": revision, "baseImageName": base}
    return {
        "kind": "SystemCapture",
        "metadata": {
            "name": "after",
            "namespace": namespace,
            "uid": "c",
            "generation": 1,
            "resourceVersion": str(version),
        },
        "status": {
            "attempts": int(captured or is_over or stage == "Copying"),
            "parentName": "a",
            "instanceUid": INSTANCE_UID,
            "conditions": conditions,
            "disks": [{**disk, "virtualSizeBytes": GIB, "state": state}],
        },
    }
