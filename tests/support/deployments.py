"""Small trees and deployments on a real API server, and queries of their state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import (
    CLAIM,
    DEPLOYMENT,
    INSTANCE,
    MACHINE,
    NODE_CACHE,
    VMI,
    VOLUME,
    Resource,
)
from kigi.domain import names
from kigi.domain.tree_names import ref_to
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async

GIB = 2**30
MIB = 2**20


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _object(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def image(
    name: str,
    parent: str | None = None,
    size_bytes: int = MIB,
    virtual_size_bytes: int = GIB,
    content: str | None = None,
) -> dict[str, Any]:
    """An image whose digest follows from ``content``; without it, from the name."""
    layer = {"digest": digest(content or name), "sizeBytes": size_bytes, "virtualSizeBytes": virtual_size_bytes}
    return _object("VMImageNode", name, {"layer": layer, **({"parentRef": ref_to(parent)} if parent else {})})


HARDWARE = {"cpu": {"cores": 1}, "memory": {"guest": "128Mi"}}


def machine(name: str, of: str | None, hardware: Mapping[str, Any] | None = HARDWARE, **fields: Any) -> dict[str, Any]:
    """A machine of a state; None omits the image or the hardware."""
    root = {"rootDisk": {"imageRef": {"name": of}}} if of is not None else {}
    return {"name": name, **root, **({"hardware": dict(hardware)} if hardware else {}), **fields}


def system(name: str, parent: str | None, machines: list[dict[str, Any]]) -> dict[str, Any]:
    return _object("SystemNode", name, {"machines": machines, **({"parentRef": ref_to(parent)} if parent else {})})


def deployment(name: str = "class", state: str = "infected", **spec: Any) -> dict[str, Any]:
    return _object("SystemDeployment", name, {"systemRef": ref_to(state), **spec})


def quota(namespace: str, **hard: Any) -> dict[str, Any]:
    """A SystemQuota for one namespace, with its name."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return _object("SystemQuota", namespace, {"namespaceSelector": selector, "hard": hard})


def tree_grant(labels: Mapping[str, str], *to: tuple[str, str], descendants: bool = False) -> dict[str, Any]:
    """A grant of these (kind, name) for namespaces with these labels."""
    more = {"descendants": True} if descendants else {}
    spec = {
        "from": {"namespaceSelector": {"matchLabels": dict(labels)}},
        "to": [{"kind": kind, "name": name, **more} for kind, name in to],
    }
    return _object("TreeGrant", "library", spec)


def instance(name: str, of: str = "class", **spec: Any) -> dict[str, Any]:
    """A SystemInstance, as a user creates it."""
    return _object("SystemInstance", f"{of}-{name}", {"deploymentRef": {"name": of}, "name": name, **spec})


def trees(machines: int = 3) -> list[dict[str, Any]]:
    """One base, a role, a machine and a state layer each; states infected, cleaned (half the machines) and restored."""
    objects = [image("base")]
    for number in range(machines):
        objects.append(image(f"role-{number}", "base"))
        objects.append(image(f"infected-{number}", f"role-{number}"))
        objects.append(image(f"cleaned-{number}", f"infected-{number}"))
    every = [machine(f"m{n}", f"infected-{n}") for n in range(machines)]
    half = [machine(f"m{n}", f"cleaned-{n}", None) for n in range(0, machines, 2)]
    objects.append(system("infected", None, every))
    objects.append(system("cleaned", "infected", half))
    objects.append(system("restored", "cleaned", [machine("m0", "role-0", None)]))
    return objects


def apply(api: ControlPlane, namespace: str, *objects: Mapping[str, Any]) -> None:
    text = yaml.safe_dump_all([dict(item) for item in objects])
    api.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input_text=text)


async def left_over(kube: KubeClient, namespace: str) -> list[str]:
    """All objects that deployments have created in that namespace."""
    found: list[str] = []
    for resource in (MACHINE, VMI, CLAIM, VOLUME):
        async for body in kube.list_all(resource):
            if body["metadata"]["labels"].get(names.LABEL_NAMESPACE) == namespace:
                found.append(f"{resource.kind} {body['metadata']['name']}")
    return found


async def get_deployment(kube: KubeClient, namespace: str, name: str = "class") -> dict[str, Any] | None:
    return await kube.get(DEPLOYMENT, namespace, name)


async def get_instances(kube: KubeClient, namespace: str, name: str = "class") -> dict[str, dict[str, Any]]:
    """Name of the instance -> SystemInstance of the deployment, in the order of instances."""
    bodies = [body async for body in kube.list_all(INSTANCE, namespace)]
    found = {body["spec"]["name"]: body for body in bodies if body["spec"]["deploymentRef"]["name"] == name}
    return dict(sorted(found.items(), key=lambda item: names.instance_order(item[0])))


def condition(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    for item in body.get("status", {}).get("conditions") or ():
        if item["type"] == kind:
            return dict(item)
    return {}


async def is_ready(kube: KubeClient, namespace: str, name: str = "class") -> bool:
    """Whether Ready is True for the current generation."""
    body = await get_deployment(kube, namespace, name)
    if body is None:
        return False
    ready = condition(body, "Ready")
    return ready.get("status") == "True" and ready["observedGeneration"] == body["metadata"]["generation"]


async def listing(kube: KubeClient, resource: Resource, namespace: str) -> dict[str, dict[str, Any]]:
    """Name -> object of a kind that was created for deployments of the namespace."""
    found = {}
    async for body in kube.list_all(resource):
        if body["metadata"].get("labels", {}).get(names.LABEL_NAMESPACE) == namespace:
            found[body["metadata"]["name"]] = body
    return found


async def outcome(kube: KubeClient, namespace: str) -> dict[str, Any]:
    """State that must not depend on crashes of the operator: machines, disks, chains, identity; without revisions."""
    machines = await listing(kube, MACHINE, namespace)
    claims = await listing(kube, CLAIM, namespace)
    volumes = await listing(kube, VOLUME, namespace)
    result: dict[str, Any] = {"claims": len(claims), "volumes": len(volumes)}
    for name, vm in machines.items():
        spec = vm["spec"]["template"]["spec"]
        claim = spec["volumes"][0]["persistentVolumeClaim"]["claimName"]
        volume = volumes[claims[claim]["spec"]["volumeName"]]
        domain = spec["domain"]
        result[name] = {
            "chain": [item["digest"] for item in json.loads(volume["spec"]["csi"]["volumeAttributes"]["chain"])],
            "firmware": domain["firmware"],
            "mac": [item["macAddress"] for item in domain["devices"]["interfaces"]],
            "strategy": vm["spec"]["runStrategy"],
        }
    return result


async def node_caches(kube: KubeClient) -> dict[str, dict[str, Any]]:
    return {body["metadata"]["name"]: body async for body in kube.list_all(NODE_CACHE)}


async def wait_ready(kube: KubeClient, ns: str, name: str = "class", timeout_s: float = 40) -> dict[str, Any]:
    try:
        await eventually_async(lambda: is_ready(kube, ns, name), timeout_s)
    except AssertionError:
        body = await get_deployment(kube, ns, name)
        raise AssertionError(f"not ready: {body and body.get('status', {}).get('conditions')}") from None
    body = await get_deployment(kube, ns, name)
    assert body is not None
    return body


async def wait_reported(kube: KubeClient, nodes: Iterable[str]) -> None:
    """Waits until each node's daemon has reported its layers and its budget."""

    async def reported() -> bool:
        caches = [await kube.get(NODE_CACHE, None, node) for node in nodes]
        return all(cache is not None and "budgetBytes" in cache.get("status", {}) for cache in caches)

    await eventually_async(reported, 30, "a report of every node's daemon")


async def wait_gone(plane: ControlPlane, kube: KubeClient, ns: str, name: str = "class") -> None:
    plane.kubectl("delete", "systemdeployment", name, "-n", ns, "--wait=false")

    async def gone() -> bool:
        return await get_deployment(kube, ns, name) is None and not await left_over(kube, ns)

    try:
        await eventually_async(gone, 40)
    except AssertionError:
        body = await get_deployment(kube, ns, name)
        raise AssertionError(f"left: {await left_over(kube, ns)} {body}") from None


async def has_only(kube: KubeClient, ns: str, count: int) -> bool:
    for resource in (VOLUME, CLAIM, MACHINE, VMI):
        if len(await listing(kube, resource, ns)) != count:
            return False
    return True


def no_overlays(actors: Actors, ns: str) -> bool:
    return not any(f"kigi.{ns}." in handle for disk in actors.disks.values() for handle in disk.overlays)
