"""One attack of a tenant, and what the tenant knows of its victim."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kigi.domain import names
from kigi.domain.names import API_VERSION
from tests.support.raw_api import MERGE_PATCH, RawApi

Object = dict[str, Any]
JSON = "application/json"
SYSTEM = "kigi-system"
CORE, KUBEVIRT = "v1", "kubevirt.io/v1"
LEVELS = ("privileged", "baseline", "restricted")
"""Pod Security levels; the tenant has a namespace with each."""
OWN = "own"
"""Deployment of the tenant itself in each of its namespaces."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One request. ``refused``: an answer that is a success is a fault by itself."""

    group: str
    name: str
    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    refused: bool = False


def collection(namespace: str, plural: str, api_version: str = API_VERSION) -> str:
    """Path of a collection; without a namespace, of the whole cluster."""
    root = f"/{'api' if api_version == CORE else 'apis'}/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def make(kind: str, name: str, spec: Any, api_version: str = API_VERSION, **metadata: Any) -> Object:
    """An object of this kind."""
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


@dataclass(frozen=True)
class Victim:
    """What a tenant can know of another one that runs a deployment: names, digests and uids of its objects."""

    namespace: str
    deployment: str
    state: str
    images: Mapping[str, Object]
    """Name -> the image's layer."""
    volumes: Mapping[str, Object]
    """Name of each PersistentVolume -> its body."""
    claims: tuple[str, ...]
    machines: Mapping[str, str]
    """Names and uids of the VMs."""
    instances: Mapping[str, str]
    """Names and uids of the SystemInstances."""
    nodes: tuple[str, ...]
    running: frozenset[str] = field(default_factory=frozenset)
    """VMs that have a VMI."""

    @property
    def vm(self) -> str:
        """A VM, a running one if there is any."""
        return min(self.running or self.machines)

    @property
    def instance(self) -> str:
        """Name of a SystemInstance."""
        return min(self.instances)

    @property
    def volume(self) -> str:
        """Name of a PersistentVolume."""
        return min(self.volumes)

    @property
    def handle(self) -> str:
        """CSI volume handle of that volume."""
        return str(self.volumes[self.volume]["spec"]["csi"]["volumeHandle"])

    @property
    def labels(self) -> Object:
        """Labels of what belongs to a machine of the victim."""
        found: Object = self.volumes[self.volume]["metadata"]["labels"]
        return found

    def owner(self, kind: str) -> Object:
        """An owner reference to an object of the victim."""
        name, uid = min((self.machines if kind == "VirtualMachine" else self.instances).items())
        version = KUBEVIRT if kind == "VirtualMachine" else API_VERSION
        return {"apiVersion": version, "kind": kind, "name": name, "uid": uid}


def read_victim(admin: RawApi, namespace: str, deployment: str) -> Victim:
    """The victim as the cluster has it now."""

    def items(path: str) -> list[Object]:
        return list(admin.get(path).object()["items"])

    def uids(found: Iterable[Object]) -> dict[str, str]:
        return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}

    volumes = [
        each
        for each in items(collection("", "persistentvolumes", CORE))
        if (each["metadata"].get("labels") or {}).get(names.LABEL_NAMESPACE) == namespace
    ]
    ksd = admin.get(f"{collection(namespace, 'systemdeployments')}/{deployment}").object()
    return Victim(
        namespace=namespace,
        deployment=deployment,
        state=ksd["spec"]["systemRef"]["name"],
        images={
            each["metadata"]["name"]: each["spec"]["layer"] | {"parent": each["spec"].get("parentRef", {}).get("name")}
            for each in items(collection(namespace, "vmimagenodes"))
        },
        volumes={each["metadata"]["name"]: each for each in volumes},
        claims=tuple(uids(items(collection(namespace, "persistentvolumeclaims", CORE)))),
        machines=uids(items(collection(namespace, "virtualmachines", KUBEVIRT))),
        instances=uids(items(collection(namespace, "systeminstances"))),
        nodes=tuple(uids(items(collection("", "nodes", CORE)))),
        running=frozenset(uids(items(collection(namespace, "virtualmachineinstances", KUBEVIRT)))),
    )


@dataclass
class Tenant:
    """The attacker's account in one namespace, and the objects that it made there."""

    api: RawApi
    made: list[str] = field(default_factory=list)

    def attack(self, attack: Attack) -> tuple[int, str]:
        """Status code and message of the answer."""
        reply = self.api.call(attack.method, attack.path, attack.body, content_type=attack.content_type)
        if attack.method == "POST" and reply.code == 201 and "metadata" in reply.body:
            name = reply.body["metadata"].get("name")
            self.made.append(f"{attack.path.partition('?')[0]}/{name}")
        return reply.code, reply.message or json.dumps(reply.body)[:200]


def clean(admin: RawApi, paths: list[str]) -> None:
    """Deletes what an attacker made, with its finalizers."""
    for path in reversed(paths):
        if admin.delete(path).code == 200:
            found = admin.get(path)
            if found.code == 200 and found.body["metadata"].get("finalizers"):
                kept = [each for each in found.body["metadata"]["finalizers"] if not each.startswith("tenant.example")]
                admin.call("PATCH", path, {"metadata": {"finalizers": kept}}, content_type=MERGE_PATCH)
    paths.clear()
